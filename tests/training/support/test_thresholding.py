"""Supports by ADMM with hard thresholding."""

from __future__ import annotations

import numpy as np
import pytest

from simplicit.training.support.thresholding import keep_largest, support_by_admm


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
