"""Supports by ADMM with hard thresholding."""

from __future__ import annotations

import numpy as np
import pytest

from simplicit.training.support import thresholding
from simplicit.training.support.thresholding import SLOW_GROWTH, keep_largest, support_by_admm


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_only_what_is_allowed(count: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)) + rng.normal(size=(40, 1))
    features /= np.linalg.norm(features, axis=0)
    allowed = np.ones((3, 6), dtype=bool)
    allowed[:, ::3] = False
    weights = rng.normal(size=(3, 6)) * allowed
    gram = features.T @ features
    support = support_by_admm(gram, weights @ gram, weights, count, allowed)
    assert support.sum() == count
    assert not (support & ~allowed).any()


def test_one_column_per_row_is_the_best_one() -> None:
    """With orthogonal columns thresholding is exact."""
    rng = np.random.default_rng(0)
    C = rng.normal(size=(4, 9))
    found = support_by_admm(np.eye(9), C, C, 10)
    assert found.tolist() == keep_largest(np.abs(C), 10).tolist()


def test_the_largest_of_equal_scores_are_the_first() -> None:
    assert keep_largest(np.array([[1.0, 2.0], [2.0, 2.0]]), 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("rows", [4, 40])
def test_threads_and_units_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By eigenvectors where rows are few, and by the matrix where they are many."""
    monkeypatch.setattr(thresholding, "BLOCK_ROWS", 3)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 30)) + rng.normal(size=(80, 1))
    H = features.T @ features
    H /= np.sqrt(np.outer(H.diagonal(), H.diagonal()))
    weights = rng.normal(size=(rows, 30))
    one, other = (support_by_admm(H, weights @ H, weights, 9 * rows, growth=SLOW_GROWTH, workers=n) for n in (1, 3))
    np.testing.assert_array_equal(one, other)
    huge = support_by_admm(H, 2.0**400 * weights @ H, 2.0**400 * weights, 9 * rows, growth=SLOW_GROWTH)
    np.testing.assert_array_equal(one, huge)
