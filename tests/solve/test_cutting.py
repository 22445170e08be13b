"""Where rows are cut into blocks: brute force says which cuts are best."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from simplicit.solve.cut import BLOCK_COST, FEW, FULL_COST, PIECE, cut_rows


def cost(hardness: list[float], sizes: list[int], most: int) -> float:
    ends = np.concatenate([[0], np.cumsum(sizes)])
    level = np.log10(hardness)
    return sum(level[a] - level[b - 1] + BLOCK_COST + FULL_COST * ((b - a) / most) ** 2 for a, b in pairwise(ends))


@pytest.mark.parametrize("seed", range(8))
def test_the_cuts_are_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hardness = np.sort(10.0 ** rng.uniform(0, 3, size=FEW + 3))[::-1]
    most = int(rng.integers(3, FEW + 4))
    found = cut_rows(hardness, most)
    assert sum(found) == len(hardness)
    assert max(found) <= most
    every = []
    for cuts in product([False, True], repeat=len(hardness) - 1):
        places = [0, *(np.flatnonzero(cuts) + 1), len(hardness)]
        sizes = [int(b - a) for a, b in pairwise(places)]
        if max(sizes) <= most:
            every.append(cost(hardness.tolist(), sizes, most))
    assert cost(hardness.tolist(), found, most) == pytest.approx(min(every), rel=1e-12)


def test_two_kinds_of_rows_are_kept_apart() -> None:
    hardness = np.concatenate([np.full(20, 1e5), np.full(30, 3.0)])
    assert cut_rows(hardness, 32) == [20, 30]


def test_few_rows_are_one_block() -> None:
    assert cut_rows(np.geomspace(1e9, 1e-9, FEW), 32) == [FEW]
    assert cut_rows(np.ones(1), 32) == [1]


def test_zeros_infinities_and_very_many_rows() -> None:
    hardness = np.concatenate([[np.inf], np.full(2 * PIECE, 2.0), np.zeros(40)])
    sizes = cut_rows(hardness, 32)
    assert sum(sizes) == len(hardness)
    assert max(sizes) <= 32
