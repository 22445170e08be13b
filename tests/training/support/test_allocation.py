"""One price for a weight, in all rows and layers."""

from __future__ import annotations

import numpy as np
import pytest

import simplicit as sp
from simplicit.training.support.allocation import Part, allocate, allocate_parts, count_kept, spread
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


def test_parts_share_as_their_rows_do() -> None:
    rng = np.random.default_rng(0)
    paths = [EliminationPath(np.arange(8), rng.random(8)) for _ in range(12)]
    scales = rng.uniform(1, 4, 12)
    parts = [Part(paths[i : i + 4], scales[i : i + 4], 32) for i in (0, 4, 8)]
    for count in (0, 1, 17, 50, 95, 96):
        rows = allocate(paths, scales, count)
        assert allocate_parts(parts, count).tolist() == rows.reshape(3, 4).sum(axis=1).tolist()


def test_some_rows_stand_for_the_others_and_the_number_is_met() -> None:
    rng = np.random.default_rng(1)
    paths = [EliminationPath(np.arange(8), np.sort(rng.random(8))) for _ in range(6)]
    ones = np.ones(3)
    parts = [Part(paths[:3], ones, 7 * 8), Part(paths[3:], ones, 3 * 8)]
    for count in range(7 * 8 + 3 * 8 + 1):
        found = allocate_parts(parts, count)
        assert found.sum() == count
        assert (found >= 0).all()
        assert (found <= [7 * 8, 3 * 8]).all()
    alike = Part([EliminationPath(np.arange(8), np.ones(8))] * 3, ones, 24)
    few, many = allocate_parts([Part(parts[0].paths, ones, 24), alike], 24), allocate_parts([parts[0], alike], 24)
    assert many[0] == few[0] == 0


def test_some_rows_are_spread_over_all() -> None:
    losses = np.random.default_rng(0).permutation(20).astype(float)
    assert spread(losses, 20).tolist() == list(range(20))
    assert sorted(losses[spread(losses, 4)]) == [2, 7, 12, 17]
    assert spread(losses, 4).tolist() == sorted(spread(losses, 4))


def test_nothing_to_allocate() -> None:
    assert allocate([], np.zeros(0), 0).tolist() == []


def test_how_many_weights_stay() -> None:
    assert count_kept(200, 77.7, 200) == 44
    assert count_kept(1000, 30, 1000) == 700  # 1000 * 0.7 is below 700 in float64
    assert count_kept(200, None, 31) == 31
    with pytest.raises(sp.InputError, match=r"sparsity: 10 % cannot be reached.* the nearest is 84\.50 %") as caught:
        count_kept(200, 10, 31)
    assert caught.value.argument == "sparsity"
