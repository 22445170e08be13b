"""Prices of blocks, elimination and exchanges, against least squares that are solved anew."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplicit.training.structured.dropping import Reader, eliminated, exchanged, move, prices, prices_beside
from simplicit.training.structured.tableau import Tableau

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Problem:
    """Rows of several layers that read the same units, with blocks of ``sizes`` columns in random places."""

    def __init__(self, units: int, sizes: tuple[int, ...], rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.parts = []
        for size in sizes:
            d = units * size + 1  # and one column of no unit
            features = rng.normal(size=(4 * d, d)) @ (np.eye(d) + 0.4 * rng.normal(size=(d, d)) / np.sqrt(d))
            targets = features @ rng.normal(size=(d, rows)) + rng.normal(size=(4 * d, rows))
            blocks = rng.permutation(d)[: units * size].reshape(units, size)
            self.parts.append((features.T @ features, targets.T @ features, rng.random(rows), blocks))
        self.units = units

    def readers(self) -> list[Reader]:
        return [Reader(Tableau(H, C, s, np.ones(len(H), dtype=bool)), blocks) for H, C, s, blocks in self.parts]

    def error(self, kept: Mask) -> float:
        """The least error, but for a constant, of all rows on some units."""
        total = 0.0
        for H, C, s, blocks in self.parts:
            at = np.setdiff1d(np.arange(len(H)), blocks[~kept])
            total -= float(s @ (C[:, at] * np.linalg.solve(H[np.ix_(at, at)], C[:, at].T).T).sum(axis=1))
        return total

    def without(self, kept: Mask, *moved: int) -> Mask:
        other = kept.copy()
        other[list(moved)] = ~other[list(moved)]
        return other


@settings(max_examples=20)
@given(
    units=st.integers(2, 6),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    rows=st.sampled_from([1, 4, 30]),
    seed=st.integers(0, 99),
)
def test_a_price_is_what_the_error_changes_by(units: int, sizes: list[int], rows: int, seed: int) -> None:
    problem = Problem(units, tuple(sizes), rows, seed)
    readers, kept = problem.readers(), np.ones(units, dtype=bool)
    for gone in range(units):
        rises = [problem.error(problem.without(kept, one)) - problem.error(kept) for one in range(gone, units)]
        assert prices(readers, np.arange(gone, units)) == pytest.approx(rises, rel=1e-6, abs=1e-8)
        move(readers, np.array([gone]))
        kept[gone] = False
        falls = [problem.error(kept) - problem.error(problem.without(kept, one)) for one in range(gone + 1)]
        assert prices(readers, np.arange(gone + 1)) == pytest.approx(falls, rel=1e-6, abs=1e-8)
        if gone + 1 < units:
            inside = np.arange(gone + 1, units)
            swaps = [problem.error(problem.without(kept, 0, one)) for one in inside]
            found = prices_beside(readers, 0, inside) + problem.error(problem.without(kept, 0))
            assert found == pytest.approx(swaps, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_elimination_is_greedy_and_exchanges_end_where_none_gains(seed: int) -> None:
    problem = Problem(7, (2, 1), 5, seed)
    readers, kept = problem.readers(), np.ones(7, dtype=bool)
    order, cost = eliminated(readers, kept, 3)
    for unit, price in zip(order, cost, strict=True):
        rises = {int(one): problem.error(problem.without(kept, one)) for one in np.flatnonzero(kept)}
        assert min(rises, key=rises.__getitem__) == unit
        assert price == pytest.approx(rises[int(unit)] - problem.error(kept), rel=1e-6)
        kept[unit] = False
    greedy = problem.error(kept)
    kept, count = exchanged(readers, kept)
    assert kept.sum() == 3
    assert (problem.error(kept) < greedy) == (count > 0)
    pairs = itertools.product(np.flatnonzero(kept), np.flatnonzero(~kept))
    assert all(problem.error(problem.without(kept, *pair)) >= problem.error(kept) - 1e-7 for pair in pairs)


def test_most_often_the_best_choice_of_all_is_found() -> None:
    found = 0
    for seed in range(10):
        problem = Problem(7, (2,), 4, seed)
        readers, kept = problem.readers(), np.ones(7, dtype=bool)
        kept[eliminated(readers, kept, 3)[0]] = False
        kept, _ = exchanged(readers, kept)
        every = [np.isin(np.arange(7), chosen) for chosen in itertools.combinations(range(7), 3)]
        found += problem.error(kept) <= min(map(problem.error, every)) + 1e-7
    assert found >= 8


def test_units_go_together_where_single_ones_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.training.structured.dropping.PRODUCTS", 0)
    monkeypatch.setattr("simplicit.training.structured.dropping.FEW", 4)
    problem = Problem(60, (1,), 3)
    order, cost = eliminated(problem.readers(), np.ones(60, dtype=bool), 2)
    assert len(set(order.tolist())) == len(cost) == 58
