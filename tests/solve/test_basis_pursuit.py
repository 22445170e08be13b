"""Exact matching, equations (8) and (9): feasible, infeasible, with and without the ball."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simplicit as sp
from families import RowCase, flaws, random_case
from reference import Array

MATCHED = 1e-6


def consistent(m: int, d: int, r: int, seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d))
    truth = rng.normal(size=(r, d)) * (rng.random((r, d)) < 0.2)
    return features, features @ truth.T, truth


def check(case: RowCase, solution: sp.Solution) -> None:
    """Every row against the twin: matched with the least norm, or truly impossible with the least residual."""
    assert flaws(case, solution) == []
    dense = solution.coefficients.toarray()
    for i in range(case.n_rows):
        row, w = case.row(i), dense[i]
        size = float(np.linalg.norm(row.target))
        residual = float(np.linalg.norm(row.target - row.features @ w))
        assert residual == pytest.approx(solution.residual[i], rel=1e-6, abs=1e-9 * size)
        assert np.isnan(solution.cardinality_gap[i])
        least = row.least_residual() if size else 0.0
        if solution.status[i] == sp.rows.RowStatus.INFEASIBLE:
            assert least > 1e-8 * size, (case.label, i)
            assert residual == pytest.approx(least, rel=1e-4)
            continue
        assert solution.converged[i], (case.label, i)
        assert residual <= MATCHED * size
        value, _ = row.solve()
        objective = row.objective(w)
        assert objective == pytest.approx(value, rel=2e-6, abs=1e-12), (case.label, i)
        assert 0 <= solution.dual_gap[i] <= 1e-6 * objective
        # The residual that is left, up to 1e-8 of the target, can lower the norm a little below the least one.
        assert objective - solution.dual_gap[i] <= value * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("m", "d"), [(5, 30), (20, 60), (10, 10), (1, 7), (30, 8)])
def test_least_norms_of_consistent_systems(m: int, d: int, seed: int) -> None:
    features, targets, truth = consistent(m, d, 3, seed)
    case = RowCase(features, targets, sp.BasisPursuit(), label={"penalty": "BasisPursuit"})
    solution = case.solve()
    check(case, solution)
    assert solution.converged.all()
    assert (solution.objective <= abs(truth).sum(axis=1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("share", [0.3, 0.9, 1.1, 5.0])
@pytest.mark.parametrize("columns", [None, slice(0, 15)])
def test_a_ball_binds_or_forbids(share: float, columns: slice | None) -> None:
    """Radii around the least norm: below it nothing matches if all columns are in the ball."""
    features, targets, _ = consistent(10, 30, 4, 7)
    free = sp.solve_rows(features, targets, penalty=sp.BasisPursuit())
    inside = abs(free.coefficients.toarray()[:, columns or slice(None)]).sum(axis=1)
    case = RowCase(features, targets, sp.BasisPursuit(), ball=sp.Ball(share * inside + 1e-3, columns), label={})
    solution = case.solve()
    check(case, solution)
    if share > 1:
        assert solution.converged.all()
        np.testing.assert_allclose(solution.objective, free.objective, rtol=2e-6)
        assert solution.multiplier.max() <= 1e-9
    elif columns is None:
        assert (solution.status == sp.rows.RowStatus.INFEASIBLE).all()
    else:
        assert solution.converged.any()
        found = solution.converged
        assert (solution.objective[found] >= free.objective[found] * (1 - 1e-6)).all()
        assert (solution.multiplier[found] > 0).any()


@pytest.mark.parametrize("seed", range(4))
def test_inconsistent_systems_come_back_with_their_least_residual(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(30, 8)), rng.normal(size=(30, 3))
    case = RowCase(features, targets, sp.BasisPursuit(), label={})
    solution = case.solve()
    assert (solution.status == sp.rows.RowStatus.INFEASIBLE).all()
    expected = np.linalg.lstsq(features, targets, rcond=None)[1]
    np.testing.assert_allclose(solution.residual**2, expected, rtol=1e-8)
    assert "take fewer samples, more columns or a larger ball" in solution.advice(0)
    check(case, solution)
    with pytest.raises(sp.ConvergenceError, match="no coefficients match the target exactly") as caught:
        case.solve(throw=True)
    assert isinstance(caught.value.solution, sp.Solution)


def test_feasible_and_infeasible_rows_in_one_call() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 5))
    targets = np.stack([features @ rng.normal(size=5), rng.normal(size=12), np.zeros(12)], axis=1)
    solution = sp.solve_rows(features, targets, penalty=sp.BasisPursuit(), throw=False)
    assert [sp.rows.RowStatus(s).name for s in solution.status] == ["CONVERGED", "INFEASIBLE", "CONVERGED"]
    assert solution.nnz[2] == 0
    assert solution.objective[2] == solution.dual_gap[2] == 0


def test_no_column_to_match_with() -> None:
    """Zero features, or a support without a column: only a zero target is met."""
    targets = np.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    dead = {"features": np.zeros((3, 4)), "support": None}
    shut = {"features": np.ones((3, 4)), "support": np.zeros(4, dtype=bool)}
    for given in (dead, shut):
        solution = sp.solve_rows(
            given["features"], targets, penalty=sp.BasisPursuit(), support=given["support"], throw=False
        )
        assert [sp.rows.RowStatus(s).name for s in solution.status] == ["INFEASIBLE", "CONVERGED"]
        assert solution.coefficients.nnz == 0
        np.testing.assert_allclose(solution.residual, np.linalg.norm(targets, axis=0))


@pytest.mark.parametrize("seed", range(12))
def test_random_systems(seed: int) -> None:
    """Duplicates, low rank, integers, supports, balls, prices by column."""
    regimes = ("normal", "duplicate and zero columns", "integers", "low rank", "positive", "tiny or huge features")
    kind = {"penalty": "BasisPursuit", "regime": regimes[seed % 6]}
    # Rounded to float32, a system is no longer consistent, nor is it plainly inconsistent.
    cases = (random_case(3000 + seed + 100 * k, rows=3, largest=60, **kind) for k in range(50))
    case = next(case for case in cases if case.label["dtype"] == "float64")
    check(case, case.solve())


def test_prices_by_column_choose_the_cheap_one() -> None:
    features = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    targets = np.array([[2.0], [3.0]])
    for factors, expected in (([1.0, 4.0, 1.0], [2, 0, 3]), ([4.0, 1.0, 1.0], [0, 2, 3])):
        solution = sp.solve_rows(features, targets, penalty=sp.BasisPursuit(np.array(factors)))
        np.testing.assert_allclose(solution.coefficients.toarray(), [expected], atol=1e-9)
    free = sp.solve_rows(features, targets, penalty=sp.BasisPursuit(np.array([0.0, 1.0, 1.0])))
    np.testing.assert_allclose(free.coefficients.toarray(), [[2, 0, 3]], atol=1e-6)
    assert free.objective[0] == pytest.approx(3.0, rel=1e-6)


def test_the_weight_has_no_meaning() -> None:
    features, targets, _ = consistent(10, 30, 2, 3)
    first, second = (sp.solve_rows(features, targets, penalty=sp.BasisPursuit(), weight=w) for w in (1e-3, 1e3))
    np.testing.assert_allclose(first.coefficients.toarray(), second.coefficients.toarray(), atol=1e-10)
    np.testing.assert_allclose(first.objective, second.objective, rtol=1e-9)


def test_an_intercept_is_matched_too() -> None:
    features, targets, _ = consistent(10, 30, 2, 3)
    solution = sp.solve_rows(features, targets + 5.0, penalty=sp.BasisPursuit(), intercept=True)
    fitted = features @ solution.coefficients.toarray().T + solution.intercepts
    np.testing.assert_allclose(fitted, targets + 5.0, atol=1e-6 * np.linalg.norm(targets))
    plain = sp.solve_rows(features, targets, penalty=sp.BasisPursuit())
    assert (solution.objective <= plain.objective * (1 + 1e-6)).all()


@pytest.mark.slow
def test_a_path_of_balls() -> None:
    features, targets, _ = consistent(10, 30, 3, 7)
    least = sp.solve_rows(features, targets, penalty=sp.BasisPursuit()).objective.max()
    balls = [sp.Ball(share * least) for share in (0.5, 1.1, 2.0)]
    path = sp.solve_path(features, targets, sp.BasisPursuit(), ball=balls, throw=False)
    for member, ball in zip(path, balls, strict=True):
        alone = sp.solve_rows(features, targets, penalty=sp.BasisPursuit(), ball=ball, throw=False)
        np.testing.assert_array_equal(member.status, alone.status)
        np.testing.assert_allclose(member.objective, alone.objective, rtol=2e-6)
        np.testing.assert_allclose(member.residual, alone.residual, rtol=1e-5, atol=1e-7 * abs(targets).max())


@pytest.mark.parametrize("change", [{"warm_start": np.ones((3, 30))}, {"rounds": 2}])
def test_warm_starts_and_rounds(change: dict[str, Any]) -> None:
    features, targets, _ = consistent(10, 30, 3, 9)
    plain = sp.solve_rows(features, targets, penalty=sp.BasisPursuit())
    other = sp.solve_rows(features, targets, penalty=sp.BasisPursuit(), **change)
    assert other.converged.all()
    first = other.earlier[0] if other.earlier else other
    np.testing.assert_allclose(first.objective, plain.objective, rtol=2e-6)
    np.testing.assert_allclose(features @ other.coefficients.toarray().T, targets, atol=1e-6 * abs(targets).max())
