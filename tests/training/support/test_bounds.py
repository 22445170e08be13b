"""The bound on what another support of the same size could gain, against all such supports."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simplicit.training.refit import refit
from simplicit.training.ridge import Ridge
from torch import nn

import simplicit as sp
from simplicit.rows import Ball
from simplicit.training.support.bounds import with_support_gap
from tied_nets import made

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def error(problem: Ridge, row: int, w: Array) -> float:
    """‖z − Φw‖² + δ‖w − prior‖² from the samples themselves."""
    features, targets = problem.centred
    residual = targets[:, row] - features @ w
    return float(residual @ residual + problem.delta * np.square(w - problem.prior[row]).sum())


def on_support(problem: Ridge, row: int, columns: tuple[int, ...]) -> Array:
    """Ridge on a support, by a solve of its own."""
    features, targets = problem.samples()
    w = np.zeros(features.shape[1])
    w[list(columns)] = np.linalg.lstsq(features[:, list(columns)], targets[:, row], rcond=None)[0]
    return w


def least(problem: Ridge, row: int, size: int) -> float:
    """The least error over all supports of a size."""
    allowed = np.flatnonzero(problem.support[row])
    supports = itertools.combinations(allowed.tolist(), min(size, len(allowed)))
    return min(error(problem, row, on_support(problem, row, columns)) for columns in supports)


def case(seed: int, m: int, d: int, *, ridge: float = 0.1, scale: float = 1.0, r: int = 3) -> Ridge:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d)) @ (np.eye(d) + 0.7 * rng.normal(size=(d, d)) / np.sqrt(d))
    targets = features @ rng.normal(size=(d, r)) + rng.normal(size=(m, r))
    support = rng.random((r, d)) < 0.85
    support[:, 0] = True
    prior = rng.normal(size=(r, d)) * support
    return Ridge(scale * features, targets, prior / scale, ridge, support, intercept=bool(seed % 2))


def refitted(problem: Ridge, support: Mask, weight: float = 1.0, ball: Ball | None = None) -> sp.Solution:
    solution = refit(
        problem, support, weight=weight, ball=ball, arguments={"tol": 1e-10, "executor": "serial", "throw": False}
    )
    return with_support_gap(solution, problem, weight)


def some_support(problem: Ridge, sizes: Any, seed: int = 0) -> Mask:
    """So many admissible columns in each row, at random."""
    rng, support = np.random.default_rng(seed), np.zeros_like(problem.support)
    for row, size in enumerate(np.broadcast_to(sizes, len(support))):
        allowed = np.flatnonzero(problem.support[row])
        support[row, rng.permutation(allowed)[:size]] = True
    return support


def check(problem: Ridge, solution: sp.Solution, weight: float = 1.0) -> Array:
    """The bound holds in every row; returns which share of the gap the best support gains."""
    used = []
    for row, w in enumerate(solution.coefficients.toarray()):
        slack = 1e-9 * weight * problem.energy[row]
        assert solution.objective[row] == pytest.approx(weight * error(problem, row, w), rel=1e-9, abs=slack)
        gain = solution.objective[row] - weight * least(problem, row, np.count_nonzero(w))
        assert gain <= solution.cardinality_gap[row] + slack, row
        assert solution.cardinality_gap[row] >= 0
        used.append(gain / solution.cardinality_gap[row] if solution.cardinality_gap[row] > slack else 1.0)
    return np.array(used)


@pytest.mark.parametrize("seed", range(10))
def test_no_support_of_the_same_size_is_better_by_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = case(seed, int(rng.integers(2, 30)), int(rng.integers(3, 9)), ridge=10.0 ** rng.uniform(-4, 1))
    weight = float(10.0 ** rng.uniform(-2, 2))
    check(problem, refitted(problem, some_support(problem, rng.integers(0, 5, size=3), seed), weight), weight)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(1, 12),
    d=st.integers(1, 7),
    ridge=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 10.0]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    ugly=st.sampled_from(["", "duplicate", "zero column", "zero target"]),
)
def test_ugly_problems(seed: int, m: int, d: int, ridge: float, scale: float, ugly: str) -> None:
    problem = case(seed, m, d, ridge=ridge, scale=scale)
    features, targets = problem.features.copy(), problem.targets.copy()
    if ugly == "duplicate":
        features[:, -1] = features[:, 0]
    if ugly == "zero column":
        features[:, -1] = 0.0
    if ugly == "zero target":
        targets[:, 1] = 0.0
    problem = replace(problem, features=features, targets=targets)
    solution = refitted(problem, some_support(problem, [0, d, 2], seed))
    assert np.isfinite(solution.cardinality_gap).all()
    check(problem, solution)


def test_under_a_ball_the_bound_holds_too() -> None:
    problem = case(3, 20, 7)
    solution = refitted(problem, some_support(problem, 3), ball=Ball(0.4, slice(0, 7)))
    assert (solution.multiplier > 0).any()
    check(problem, solution)


def test_it_is_the_dual_of_the_perspective_relaxation() -> None:
    """The relaxation as a cone programme, solved by Clarabel: the bound comes within a hundredth of the error of it."""
    problem = case(4, 40, 12, ridge=0.3, r=2)
    solution = refitted(problem, some_support(problem, 4))
    eigenvalues, vectors = np.linalg.eigh(problem.gram)
    alpha = eigenvalues[0]
    root = np.sqrt(np.maximum(eigenvalues - alpha, 0))[:, None] * vectors.T
    for row, w in enumerate(solution.coefficients.toarray()):
        x, t = cp.Variable(12), cp.Variable(12)
        shared = cp.sum([cp.quad_over_lin(x[j], t[j]) for j in range(12)])
        objective = cp.sum_squares(root @ x) - 2 * problem.cross[row] @ x + alpha * shared + problem.energy[row]
        limits = [t >= 0, t <= 1, cp.sum(t) <= np.count_nonzero(w), x[~problem.support[row]] == 0]
        relaxed = cp.Problem(cp.Minimize(objective), limits).solve(solver="CLARABEL")
        bound = solution.objective[row] - solution.cardinality_gap[row]
        assert relaxed - 0.011 * solution.objective[row] <= bound <= relaxed * (1 + 1e-6)


def test_a_best_support_is_proved_where_the_relaxation_is_exact() -> None:
    """Orthogonal columns: the largest correlations are the best support, and the gap of it is nothing."""
    problem = Ridge(np.eye(8) * 2, np.arange(1.0, 9.0)[:, None], np.zeros((1, 8)), 0.5, np.ones((1, 8), bool), False)
    best = np.arange(8)[None] >= 5
    assert refitted(problem, best).cardinality_gap[0] <= 0.01 * refitted(problem, best).objective[0]
    worse = np.arange(8)[None] < 3
    assert check(problem, refitted(problem, worse))[0] >= 0.99


def test_more_weights_leave_less_to_gain_at_both_ends() -> None:
    """Without a column, and with all of them, there is no choice."""
    problem = case(6, 30, 8)
    empty = refitted(problem, np.zeros_like(problem.support))
    assert (empty.cardinality_gap <= 1e-12 * empty.objective).all()
    full = refitted(problem, problem.support)
    np.testing.assert_array_equal(full.cardinality_gap, full.dual_gap)


def test_rows_without_an_admissible_column() -> None:
    problem = replace(case(1, 10, 4), support=np.zeros((3, 4), bool), prior=np.zeros((3, 4)))
    assert (refitted(problem, problem.support).cardinality_gap == 0).all()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()


def inputs(m: int = 150) -> Array:
    return np.random.default_rng(1).random((m, 12))


# --- in fit -----------------------------------------------------------------------------------------------------------


def test_fit_says_how_far_its_supports_are_from_the_best() -> None:
    result = sp.fit(network(), inputs(), preset="sparse", sparsity=70)
    gap, objective = result.rows.cardinality_gap, result.rows.objective
    assert ((gap >= 0) & (gap <= objective * (1 + 1e-9))).all()
    for group, bound in result.support_bounds.items():
        rows = result.rows.group == group
        assert bound == pytest.approx(1 - gap[rows].sum() / objective[rows].sum())
        assert 0.3 < bound <= 1
    assert result.figures()["support_bounds"] == result.support_bounds
    lines = result.summary().splitlines()
    assert any("best >= x" in line for line in lines)
    for line in lines[-3:]:
        name, *_, told = line.split()
        assert result.support_bounds[name] - 1e-3 < float(told) <= result.support_bounds[name], "never rounded up"


@pytest.mark.parametrize("options", [{"refine": True}, {"refit": True}, {}])
def test_there_is_no_such_bound_without_refine_and_refit(options: dict[str, bool]) -> None:
    result = sp.fit(network(), inputs(40), penalty=sp.L1(1e-3), kappa=None, **options)
    assert result.support_bounds == {}
    assert np.isnan(result.rows.cardinality_gap).all()
    assert "best >=" not in result.summary()


@pytest.mark.parametrize("ridge", [0.0, 1e-7])
def test_float32_sums_of_tied_rows(ridge: float) -> None:
    """Their rounding is that of float32: without a ridge they are singular, and a proof of more digits is none."""
    net, _ = made("plain")
    for samples in (torch.rand(5, 3, 7, 7), torch.zeros(5, 3, 7, 7), 100 + torch.rand(20, 3, 7, 7)):
        result = sp.fit(net.float(), samples, preset="sparse", sparsity=70, ridge=ridge)
        assert all(0 <= bound <= 1 for bound in result.support_bounds.values())


def test_tied_rows_have_it_too() -> None:
    net, samples = made("plain")
    result = sp.fit(net, samples, preset="sparse", sparsity=60)
    assert set(result.support_bounds) == {layer.name for layer in result.layers}
    assert all(0 < bound <= 1 for bound in result.support_bounds.values())
    assert "best >=" in result.summary()
