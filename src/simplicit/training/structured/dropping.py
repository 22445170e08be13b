r"""Which units of a width are dropped: elimination by price, and exchanges until none gains.

A unit is read by several groups of rows, each with columns of its own. Its price is the sum of what its block costs
every one of them (:mod:`~simplicit.training.structured.tableau`). Where few units are left they go one by one, the
cheapest first; where many are, some at a time. Then a dropped unit is exchanged for a kept one wherever that lowers the
error: dropped units are tried in the order of what they would gain, each against all kept ones, exactly, until a round
of all of them finds nothing. What is left is a choice that no single exchange improves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.structured.tableau import Tableau

#: An exchange gains where it lowers the error by this share of what the dropped units would bring back.
LEAST_GAIN = 1e-9
#: Share of the units left that go together where these are more than so many, and what a round of single ones may take,
#: in products.
TOGETHER, FEW, PRODUCTS = 0.05, 40, 2e10
#: Rounds of exchanges, at most.
ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Reader:
    """Rows that read the units of a width, with the columns of each unit, (units, c)."""

    tableau: Tableau
    blocks: Index

    @property
    def products(self) -> float:
        """What it takes to move one unit."""
        r, d = self.tableau.Q.shape
        return float(self.blocks.shape[1] * d * (r + d))


def prices(readers: Sequence[Reader], units: Index) -> Array:
    """Of some units, all inside or all outside, what the error rises or falls by when one of them moves."""
    return np.asarray(np.sum([one.tableau.prices(one.blocks[units]) for one in readers], axis=0))


def prices_beside(readers: Sequence[Reader], unit: int, others: Index) -> Array:
    """The prices of other units once one has moved."""
    found = [one.tableau.prices_beside(one.blocks[unit], one.blocks[others]) for one in readers]
    return np.asarray(np.sum(found, axis=0))


def move(readers: Sequence[Reader], units: Index) -> None:
    """Bring units in, or take them out."""
    for one in readers:
        one.tableau.sweep(one.blocks[units].ravel())


def eliminated(readers: Sequence[Reader], left: Mask, count: int) -> tuple[Index, Array]:
    """The order in which units go until so many are left, of those in ``left`` (units,), and the price of each."""
    inside = np.flatnonzero(left)
    singly = len(inside) * sum(one.products for one in readers) <= PRODUCTS
    order: list[Index] = []
    costs: list[Array] = []
    while len(inside) > count:
        price = prices(readers, inside)
        many = 1 if singly or len(inside) <= FEW else min(int(TOGETHER * len(inside)), len(inside) - FEW)
        places = np.argsort(price, kind="stable")[: min(max(1, many), len(inside) - count)]
        move(readers, inside[places])
        order.append(inside[places])
        costs.append(price[places])
        inside = np.delete(inside, places)
    return np.concatenate([np.zeros(0, dtype=np.intp), *order]), np.concatenate([np.zeros(0), *costs])


def exchanged(readers: Sequence[Reader], left: Mask) -> tuple[Mask, int]:
    """The units that are kept when no exchange gains any more, and how many exchanges were made."""
    kept, count = left.copy(), 0
    if kept.all() or not kept.any():
        return kept, 0
    least = LEAST_GAIN * float(prices(readers, np.flatnonzero(~kept)).sum())
    for _ in range(ROUNDS):
        before = count
        outside = np.flatnonzero(~kept)
        gains = prices(readers, outside)
        for unit in outside[np.argsort(-gains, kind="stable")]:
            if kept[unit]:
                continue
            gain, inside = float(prices(readers, np.array([unit]))[0]), np.flatnonzero(kept)
            beside = prices_beside(readers, int(unit), inside)
            cheapest = int(np.argmin(beside))
            if gain - beside[cheapest] > least:
                move(readers, np.array([unit]))
                move(readers, inside[[cheapest]])
                kept[unit], kept[inside[cheapest]] = True, False
                count += 1
        if count == before:
            break
    return kept, count
