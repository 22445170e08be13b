"""Rows that match almost exactly are judged by their layer's targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.rows import RowStatus, Solution
from simplicit.training import training as module
from simplicit.training.judgement import proved, raise_if_wrong, wrong_rows
from simplicit.training.problem import LeastSquares, Rows, Sums
from simplicit.training.units import Scales


def rows_of(energies: list[float], weight: float = 0.5) -> Rows:
    count = len(energies)
    sums = Sums(np.eye(2), np.zeros((count, 2)), np.array(energies), 10)
    scales = Scales(np.ones(count), np.ones(2), np.ones(2, dtype=bool))
    ones = np.ones((count, 2))
    return Rows(sums, weight, ones != 0, ones, scales, lambda penalty: penalty.pieces(count, 2))


def solution_of(gaps: list[float], status: list[RowStatus], tol: float = 1e-6) -> Solution:
    found = sp.solve_rows(np.eye(3, 2), np.ones((3, len(gaps))), penalty=sp.L1(0.1), tol=tol)
    return replace(found, dual_gap=np.array(gaps), status=np.array(status, dtype=np.int8))


def test_a_gap_is_held_against_the_layer_s_targets() -> None:
    done, limit, lost = RowStatus.CONVERGED, RowStatus.ACCURACY_LIMIT, RowStatus.INFEASIBLE
    rows = rows_of([8.0, 0.0, 8.0, 8.0, 8.0])  # 6.4 in the mean, times 0.5, times 1e-6: 3.2e-6
    found = solution_of([9.0, 3.1e-6, 3.3e-6, np.inf, 0.0], [done, limit, limit, limit, lost])
    assert wrong_rows(found, rows).tolist() == [False, False, True, True, True]
    with pytest.raises(sp.ConvergenceError, match=r"layer 'fc': 3 of 5 rows did not reach tol=1e-06.*first is row 2"):
        raise_if_wrong(found, rows, "fc")
    raise_if_wrong(solution_of([3.1e-6], [limit]), rows_of([6.4]), "fc")


def test_rounds_before_the_last_are_judged_too() -> None:
    limit = RowStatus.ACCURACY_LIMIT
    good, bad = (solution_of([gap], [limit]) for gap in (1e-9, 1.0))
    with pytest.raises(sp.ConvergenceError, match=r"1 of 1 rows"):
        raise_if_wrong(replace(good, earlier=(bad,)), rows_of([6.4]), "fc")


def test_least_squares_are_certified_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(40, 6)), rng.normal(size=(3, 6))
    targets = features @ weights.T + 1e-5 * rng.normal(size=(40, 3))
    sums = Sums(features.T @ features, targets.T @ features, np.square(targets).sum(axis=0), 40)
    support = rng.random((3, 6)) < 0.7
    problem = LeastSquares.of(sums, weights, support, sp.Ridge(1e-3))
    exact = sp.solve_rows(problem.statistics, penalty=sp.NoPenalty(), weight=0.5, support=support)
    moved = exact.coefficients.toarray() + np.array([0.0, 1e-9, 1e-2])[:, None] * support
    status = np.array([RowStatus.ACCURACY_LIMIT, RowStatus.ACCURACY_LIMIT, RowStatus.ITERATION_LIMIT], dtype=np.int8)
    doubted = replace(
        exact, coefficients=csr_array(moved), status=status, dual_gap=np.ones(3), relative_gap=np.full(3, np.inf)
    )
    found = proved(doubted, problem, support, 0.5)

    def loss(row: int, w: np.ndarray[Any, Any]) -> float:
        towards = problem.cross[row] @ w
        return 0.5 * float(w @ problem.gram @ w - 2 * towards + problem.energy[row])

    gaps = [loss(row, moved[row]) - loss(row, exact.coefficients.toarray()[row]) for row in range(3)]
    np.testing.assert_allclose(found.dual_gap, gaps, rtol=1e-6, atol=1e-12)
    assert found.converged.tolist() == [True, True, False]
    kept = proved(exact, problem, support, 0.5)
    np.testing.assert_array_equal(kept.dual_gap, exact.dual_gap)


def test_a_good_fit_is_kept_and_its_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = module.solve_rows

    def unproved(*given: object, **options: object) -> Solution:
        found = solve(*given, **options)  # type: ignore[arg-type]
        status = np.where(np.arange(len(found.status)) == 1, RowStatus.ACCURACY_LIMIT, found.status)
        return replace(found, status=status.astype(np.int8))

    own = Subject(mlp(12, 10, 4), uniform(60))
    monkeypatch.setattr(module, "solve_rows", unproved)
    monkeypatch.setattr(module, "proved", lambda found, *_: found)
    result = own.fit(sp.Sparse(50))
    assert int((~result.rows.converged).sum()) == 2
    assert "not certified: 1 of 0, 1 of 2" in result.summary()


def test_a_wrong_fit_is_an_error_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = module.solve_rows

    def wrong(*given: object, **options: object) -> Solution:
        found = solve(*given, **options)  # type: ignore[arg-type]
        return replace(
            found,
            status=np.full_like(found.status, RowStatus.ITERATION_LIMIT),
            dual_gap=np.full_like(found.dual_gap, 1.0),
        )

    own = Subject(mlp(12, 10, 4), uniform(60))
    monkeypatch.setattr(module, "solve_rows", wrong)
    monkeypatch.setattr(module, "proved", lambda found, *_: found)
    with pytest.raises(sp.ConvergenceError, match="layer '0'"):
        own.fit(sp.Sparse(50))
    assert not own.fit(sp.Sparse(50), throw=False).rows.converged.any()
