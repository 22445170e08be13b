"""Supports by ADMM with hard thresholding, and what the refinement makes of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.training.support.elimination import least_squares
from simplicit.training.support.refine import Elimination, refined
from simplicit.training.support.thresholding import keep_largest, support_by_admm

Array = npt.NDArray[np.float64]


@dataclass
class Problem:
    """Rows on the same columns."""

    gram: Array
    cross: Array
    support: npt.NDArray[np.bool_]
    dense: Array


def problem(seed: int, r: int = 3, d: int = 6, *, correlated: float = 1.0) -> Problem:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, d)) + correlated * rng.normal(size=(40, 1))
    dense = rng.normal(size=(r, d))
    gram = features.T @ features + 0.1 * np.eye(d)
    return Problem(gram, dense @ features.T @ features, np.ones((r, d), dtype=bool), dense)


def loss(given: Problem, support: npt.NDArray[np.bool_], scales: Array) -> float:
    """Σ s(wᵀHw − 2cᵀw) at least squares on a support."""
    total = 0.0
    for row, chosen in enumerate(support):
        w = least_squares(given.gram, given.cross[row], np.flatnonzero(chosen))
        total += float(scales[row] * (w @ given.gram @ w - 2 * given.cross[row] @ w))
    return total


def best(given: Problem, count: int, scales: Array) -> float:
    """The least loss of all supports with so many entries."""
    places = list(itertools.product(*map(range, given.cross.shape)))
    least = np.inf
    for chosen in itertools.combinations(places, count):
        support = np.zeros_like(given.support)
        support[tuple(np.transpose(chosen))] = True
        least = min(least, loss(given, support, scales))
    return least


@pytest.mark.parametrize("seed", range(12))
def test_refinement_by_both_is_no_worse_than_by_elimination_and_near_the_best(seed: int) -> None:
    given, scales = problem(seed, r=2, d=5), np.array([1.0, 3.0])
    stage = Elimination.of(given, given.support, 1)
    alone = refined(stage, scales, 4, 1)
    both = refined(stage, scales, 4, 1, dense=given.dense)
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
        stage = Elimination.of(given, given.support, 1)
        alone, both = refined(stage, scales, 20, 1), refined(stage, scales, 20, 1, dense=given.dense)
        wins += loss(given, both.support, scales) < loss(given, alone.support, scales) * (1 + 1e-9)
    assert 0 < wins < 20


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_only_what_is_allowed(count: int) -> None:
    given = problem(0, r=3, d=6)
    given.support[:, ::3] = False
    given.dense *= given.support
    units = np.sqrt(given.gram.diagonal())
    H, C = given.gram / np.outer(units, units), given.cross / units
    support = support_by_admm(H, C, given.dense * units, count, given.support)
    assert support.sum() == count
    assert not (support & ~given.support).any()


def test_one_column_per_row_is_the_best_one() -> None:
    """With orthogonal columns thresholding is exact."""
    rng = np.random.default_rng(0)
    C = rng.normal(size=(4, 9))
    found = support_by_admm(np.eye(9), C, C, 10)
    assert found.tolist() == keep_largest(np.abs(C), 10).tolist()


def test_the_largest_of_equal_scores_are_the_first() -> None:
    assert keep_largest(np.array([[1.0, 2.0], [2.0, 2.0]]), 2).tolist() == [[False, True], [True, False]]
