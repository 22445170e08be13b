"""One price for a weight, in all rows and layers."""

from __future__ import annotations

import numpy as np
import pytest

import simplicit as sp
from simplicit.training.support.allocation import allocate, count_kept
from simplicit.training.support.elimination import EliminationPath


def test_one_price_allocates_the_weights_exactly() -> None:
    paths = [
        EliminationPath(np.arange(3), np.array([1.0, 5.0, 2.0])),
        EliminationPath(np.arange(2), np.array([3.0, 4.0])),
    ]
    ones = np.ones(2)
    assert allocate(paths, ones, 5).tolist() == [3, 2]
    assert allocate(paths, ones, 4).tolist() == [2, 2]
    # The last column of the first row goes after one that costs 5, so that its price is 5 too.
    assert allocate(paths, ones, 2).tolist() == [2, 0]
    assert allocate(paths, ones, 0).tolist() == [0, 0]
    assert allocate(paths, np.array([1.0, 10.0]), 2).tolist() == [0, 2]
    equal = [EliminationPath(np.arange(4), np.ones(4)) for _ in range(3)]
    assert allocate(equal, np.ones(3), 7).sum() == 7


def test_nothing_to_allocate() -> None:
    assert allocate([], np.zeros(0), 0).tolist() == []


def test_how_many_weights_stay() -> None:
    assert count_kept(200, 77.7, 200) == 44
    assert count_kept(1000, 30, 1000) == 700  # 1000 * 0.7 is below 700 in float64
    assert count_kept(200, None, 31) == 31
    with pytest.raises(sp.InputError, match=r"sparsity: 10 % cannot be reached.* the nearest is 84\.50 %") as caught:
        count_kept(200, 10, 31)
    assert caught.value.argument == "sparsity"
