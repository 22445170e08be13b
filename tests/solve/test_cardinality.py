"""The bound on how far the chosen non-zeros can be from the best ones, against all choices there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from cases import problem
from families import RowCase
from reference import Array, RowModel


def best_subset(row: RowModel) -> float:
    """min over all supports S of λ‖z − Φw‖² + α Σc w² + γ Σ_S c, one ridge regression each."""
    prices, weight = row.prices, row.weight
    features = row.features - row.intercept * row.features.mean(axis=0)
    target = row.target - row.intercept * row.target.mean()
    least = weight * float(target @ target)
    allowed = np.flatnonzero(np.ones(features.shape[1], dtype=bool) if row.support is None else row.support)
    for size in range(1, len(allowed) + 1):
        for chosen in itertools.combinations(allowed, size):
            index = list(chosen)
            phi, factors = features[:, index], prices.factors[index]
            matrix = weight * phi.T @ phi + prices.alpha * np.diag(factors)
            w = np.linalg.solve(matrix, weight * phi.T @ target)
            value = weight * np.square(target - phi @ w).sum() + prices.alpha * factors @ w**2
            least = min(least, float(value + prices.gamma * factors.sum()))
    return least


def true_price(row: RowModel, w: Array, constant: float) -> float:
    """The objective with γ‖w‖₀ + α‖w‖² in place of its relaxation."""
    residual = row.target - row.features @ w - constant
    factors, prices = row.prices.factors, row.prices
    return float(row.weight * residual @ residual + factors @ (prices.alpha * w**2 + prices.gamma * (w != 0)))


def check(case: RowCase, solution: sp.Solution) -> Array:
    """The gap covers what the best subset gains; returns how much of the gap that is."""
    used = []
    for i in range(case.n_rows):
        row, w = case.row(i), solution.coefficients.toarray()[i]
        true = true_price(row, w, solution.intercepts[i])
        gained = true - best_subset(row)
        gap = float(solution.cardinality_gap[i])
        assert gained <= gap + 1e-10 * true, (i, gained, gap)
        # It is what is above the relaxed objective, and the duality gap.
        excess = true - row.objective(w, solution.intercepts[i])
        assert gap == pytest.approx(solution.dual_gap[i] + excess, rel=1e-9, abs=1e-11 * true)
        used.append(gained / gap if gap > 0 else 1.0)
    return np.array(used)


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_non_zeros_is_better_by_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, d = int(rng.integers(3, 30)), int(rng.integers(2, 9))
    features, targets = problem(m, d, 4, seed=seed, sparse_truth=2)
    alpha = 10.0 ** rng.uniform(-2, 1)
    gamma = 10.0 ** rng.uniform(-2, 1) * np.square(targets).sum() / 40
    options: dict[str, Any] = {"weight": float(10.0 ** rng.uniform(-1, 1)), "intercept": bool(seed % 2)}
    if seed % 3 == 0:
        options["support"] = rng.random((4, d)) < 0.8
    factors = rng.uniform(0.3, 3, size=d) if seed % 4 == 0 else None
    case = RowCase(features, targets, sp.Perspective(alpha, gamma, factors), **options)
    solution = case.solve()
    assert solution.converged.all()
    check(case, solution)


def test_the_bound_is_tight_where_the_relaxation_is() -> None:
    """Orthogonal columns, all coefficients beyond the threshold or at zero: the relaxation is exact."""
    features = np.eye(6) * 2
    targets = np.array([[5.0, 4.0, 0.1, 0.0, -6.0, 0.05]]).T
    case = RowCase(features, targets, sp.Perspective(1.0, 1.0))
    solution = case.solve(tol=1e-12)
    assert solution.nnz[0] == 3
    assert solution.cardinality_gap[0] <= 1e-9 * solution.objective[0]
    check(case, solution)


def test_the_bound_is_positive_where_the_relaxation_is_loose() -> None:
    features, targets = problem(20, 8, 6, sparse_truth=8)
    case = RowCase(features, targets, sp.Perspective(1.0, 3.0))
    used = check(case, case.solve(tol=1e-10))
    assert (case.solve().cardinality_gap > 0).any()
    assert used.max() <= 1


def test_without_a_price_the_bound_is_the_duality_gap() -> None:
    features, targets = problem(20, 8, 3)
    solution = sp.solve_rows(features, targets, penalty=sp.Perspective(1.0, 0.0))
    np.testing.assert_allclose(solution.cardinality_gap, solution.dual_gap, rtol=1e-6, atol=1e-12)
    assert (solution.nnz == 8).all()
    ridge = np.linalg.solve(features.T @ features + np.eye(8), features.T @ targets).T
    np.testing.assert_allclose(solution.coefficients.toarray(), ridge, atol=1e-6)


@pytest.mark.parametrize("penalty", [sp.L1(0.5), sp.ElasticNet(0.5, 0.5), sp.NoPenalty(), sp.BasisPursuit()])
def test_other_penalties_have_no_such_bound(penalty: Any) -> None:
    features, targets = problem(5, 20, 3)
    assert np.isnan(sp.solve_rows(features, targets, penalty=penalty).cardinality_gap).all()
