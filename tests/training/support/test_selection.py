"""The supports of rows together: by elimination and exchange, and from a thresholded start too."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.training.problem import LeastSquares
from simplicit.training.support import selection
from simplicit.training.support.allocation import allocate
from simplicit.training.support.elimination import least_squares
from simplicit.training.support.selection import Selection, elimination_paths, select

Array = npt.NDArray[np.float64]


def problem(seed: int, r: int = 3, d: int = 6, *, correlated: float = 1.0) -> LeastSquares:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, d)) + correlated * rng.normal(size=(40, 1))
    weights = rng.normal(size=(r, d))
    gram = features.T @ features + 0.1 * np.eye(d)
    cross = weights @ features.T @ features
    energy = np.einsum("ij,ij->i", cross, weights)
    return LeastSquares(gram, cross, energy, 40, support=np.ones((r, d), dtype=bool), weights=weights)


def selected(given: LeastSquares, scales: Array, count: int, *, thresholding: bool, workers: int = 1) -> Selection:
    paths = elimination_paths(given, given.support, workers)
    return select(given, paths, scales, count, workers, thresholding=thresholding)


def loss(given: LeastSquares, support: npt.NDArray[np.bool_], scales: Array) -> float:
    """Σ s(wᵀHw − 2cᵀw) at least squares on a support."""
    total = 0.0
    for row, chosen in enumerate(support):
        w = least_squares(given.gram, given.cross[row], np.flatnonzero(chosen))
        total += float(scales[row] * (w @ given.gram @ w - 2 * given.cross[row] @ w))
    return total


def best(given: LeastSquares, count: int, scales: Array) -> float:
    """The least loss of all supports with so many entries."""
    places = list(itertools.product(*map(range, given.cross.shape)))
    least = np.inf
    for chosen in itertools.combinations(places, count):
        support = np.zeros_like(given.support)
        support[tuple(np.transpose(chosen))] = True
        least = min(least, loss(given, support, scales))
    return least


@pytest.mark.parametrize("seed", range(12))
def test_both_starts_are_no_worse_than_elimination_alone_and_near_the_best(seed: int) -> None:
    given, scales = problem(seed, r=2, d=5), np.array([1.0, 3.0])
    alone, both = (selected(given, scales, 4, thresholding=thresholding) for thresholding in (False, True))
    assert alone.support.sum() == both.support.sum() == 4
    losses = [loss(given, one.support, scales) for one in (alone, both)]
    assert losses[1] <= losses[0] + 1e-9 * abs(losses[0])
    assert losses[1] <= 0.8 * best(given, 4, scales)  # both are negative
    for row, chosen in enumerate(both.support):
        expected = least_squares(given.gram, given.cross[row], np.flatnonzero(chosen))
        np.testing.assert_allclose(both.coefficients[row], expected, atol=1e-12)


def test_thresholding_finds_what_elimination_does_not() -> None:
    """Of many correlated problems it wins some and loses some."""
    scales, wins = np.ones(8), 0
    for seed in range(20):
        given = problem(seed, r=8, d=16, correlated=3.0)
        alone, both = (selected(given, scales, 20, thresholding=thresholding) for thresholding in (False, True))
        wins += loss(given, both.support, scales) < loss(given, alone.support, scales) * (1 + 1e-9)
    assert 0 < wins < 20


@pytest.mark.parametrize("thresholding", [False, True])
def test_the_number_of_workers_changes_nothing(thresholding: bool) -> None:
    given, scales = problem(3, r=6, d=12, correlated=3.0), np.linspace(1.0, 2.0, 6)
    one, other = (selected(given, scales, 20, thresholding=thresholding, workers=workers) for workers in (1, 3))
    np.testing.assert_array_equal(one.support, other.support)
    np.testing.assert_array_equal(one.coefficients, other.coefficients)


def test_exchanged_are_the_columns_that_elimination_had_not_left() -> None:
    scales, moved = np.ones(4), 0
    for seed in range(10):
        given = problem(seed, r=4, d=12, correlated=3.0)
        paths = elimination_paths(given, given.support, 1)
        eliminated = np.zeros_like(given.support)
        for row, path, kept in zip(eliminated, paths, allocate(paths, scales, 12), strict=True):
            row[path.left(int(kept))] = True
        found = select(given, paths, scales, 12, 1, thresholding=False)
        assert found.exchanged == (found.support & ~eliminated).sum()
        assert (found.support.sum(axis=1) == eliminated.sum(axis=1)).all()
        assert loss(given, found.support, scales) <= loss(given, eliminated, scales)
        moved += found.exchanged
    assert moved > 0


def test_thresholding_alone_needs_no_paths() -> None:
    given, scales = problem(5, r=8, d=16, correlated=3.0), np.ones(8)
    found = select(given, (), scales, 40, 1, thresholding=True)
    assert found.support.sum() == 40
    both = selected(given, scales, 40, thresholding=True)
    assert loss(given, both.support, scales) <= loss(given, found.support, scales) * (1 - 1e-9)


def test_wide_rows_are_not_exchanged_but_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "EXCHANGED", 0)
    given, scales = problem(5, r=8, d=16, correlated=3.0), np.ones(8)
    found = select(given, (), scales, 40, 2, thresholding=True)
    assert found.exchanged == 0
    for row, chosen in enumerate(found.support):
        expected = least_squares(given.gram, given.cross[row], np.flatnonzero(chosen))
        np.testing.assert_allclose(found.coefficients[row], expected, atol=1e-12)


def test_paths_start_from_each_row_s_own_candidates() -> None:
    given = problem(0, r=3, d=6)
    candidates = np.array([[1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1]], dtype=bool)
    for row, path in enumerate(elimination_paths(given, candidates, 2)):
        assert sorted(path.order) == np.flatnonzero(candidates[row]).tolist()
