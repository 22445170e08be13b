r"""How many units each width keeps: the same share of every one, or those above one price for what a unit saves.

Every width has a path of prices, those of its units as they go one after the other on the baseline's states
(:mod:`~simplicit.training.structured.dropping`), in units of what it does to the outputs' squared error. Divided by
what a unit of the width saves, one unit, its weights or its multiply-adds, they make one order for the whole network.
So many of it go that what is left is no more than the share that is wanted; every width keeps one unit at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplicit.checks import refused
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.channels import ChannelProvider
from simplicit.training.problem import Ridge
from simplicit.training.structured.dropping import eliminated, exchanged, move
from simplicit.training.structured.narrowing import Narrowing, readers_of, tableaus_of
from simplicit.training.structured.tableau import Tableau
from simplicit.training.structured.widths import Group, Plan, Width


@dataclass(frozen=True, eq=False)
class Saving:
    """What a price is for: what one unit of a width saves, and what a network with some units has of it."""

    unit: Callable[[Width], float]
    left: Callable[[Plan, Sequence[Mask]], float]


#: What is measured by a share of units, other than of each width's own.
SAVINGS: dict[str, Saving] = {
    "states": Saving(lambda width: 1.0, lambda plan, kept: float(sum(units.sum() for units in kept))),
    "weights": Saving(lambda width: width.weights, lambda plan, kept: sum(plan.kept_weights(kept).values())),
    "operations": Saving(lambda width: width.operations, lambda plan, kept: sum(plan.kept_operations(kept).values())),
}
#: The ways to share out what is dropped.
ALLOCATIONS = ("uniform", *SAVINGS)


@dataclass(frozen=True, eq=False)
class Path:
    """The ``order`` in which the units of a width go, and the ``price`` of each, no less than those before it."""

    order: Index
    price: Array

    def kept(self, count: int) -> Mask:
        """All units but the first ``count`` of the path."""
        left = np.ones(len(self.order) + 1, dtype=bool)
        left[self.order[:count]] = False
        return left


def narrowed(
    provider: ChannelProvider,
    plan: Plan,
    ridge: Ridge,
    sparsity: float,
    allocation: str,
    own: Mapping[int, float],
) -> Narrowing:
    """Choose how many units each width keeps, and, of widths that several layers read, which.

    ``own`` are shares of some widths, by number. InputError is raised where the sparsity cannot be reached.
    """
    if not plan.widths:
        raise refused(
            "net",
            "it has no units that could be dropped: outputs stay, residual streams, and what layers make or read that "
            "are not trained",
        )
    pilot = _Pilot(provider, plan, ridge)
    counts = {number: _share(plan.widths[number].count, share) for number, share in own.items()}
    if allocation == "uniform":
        counts = {number: _share(width.count, sparsity) for number, width in enumerate(plan.widths)} | counts
        paths = pilot.paths(counts)
    else:
        paths = pilot.paths(counts)
        counts |= _at_one_price(plan, paths, counts, sparsity, SAVINGS[allocation])
    if not any(counts.values()) and (sparsity or any(own.values())):
        most = max(width.count for width in plan.widths)
        raise refused("sparsity", f"{sparsity:g} % of at most {most} units is none; ask for {math.ceil(100 / most)} %")
    kept = [path.kept(counts[number]) for number, path in enumerate(paths)]
    pilot.exchange(kept)
    undecided = {number for number, width in enumerate(plan.widths) if len(width.readers) == 1}
    return Narrowing(provider, plan, ridge, kept, undecided, pilot.exchanged)


def _share(count: int, share: float) -> int:
    """How many of so many units that share is, one less than all at most."""
    return min(int(count * share / 100 + 1e-9), count - 1)


class _Pilot:
    """The elimination of every width on the baseline's states."""

    def __init__(self, provider: ChannelProvider, plan: Plan, ridge: Ridge) -> None:
        self.provider, self.plan, self.ridge = provider, plan, ridge
        self.exchanged = 0
        self._waiting: dict[Group, Tableau] = {}  # of widths that several layers read

    def paths(self, counts: Mapping[int, int]) -> list[Path]:
        """Those of all widths: until one unit is left, or as many as there are to be."""
        found: dict[int, Path] = {}
        tableaus: dict[Group, Tableau] = {}
        for layer, groups in self.provider.on_baseline():
            mine = [number for number, width in enumerate(self.plan.widths) if layer.name in width.readers]
            if not mine:
                continue
            weights = self.provider.sensitivities(layer).reshape(layer.groups, -1)
            everything = np.ones((layer.groups, layer.columns), dtype=bool)
            tableaus |= tableaus_of(layer, groups, self.ridge, weights, everything)
            for number in mine:
                width = self.plan.widths[number]
                if width.readers[-1] == layer.name:
                    found[number] = self._path(width, tableaus, counts.get(number))
            later = {key for number, one in enumerate(self.plan.widths) if number not in found for key in one.columns}
            shared = {key for one in self.plan.widths if len(one.readers) > 1 for key in one.columns}
            self._waiting |= {key: one for key, one in tableaus.items() if key in shared}
            tableaus = {key: one for key, one in tableaus.items() if key in later}
        return [found[number] for number in range(len(self.plan.widths))]

    def _path(self, width: Width, tableaus: Mapping[Group, Tableau], count: int | None) -> Path:
        copies = {key: tableaus[key].copy() for key in width.columns}
        left = np.ones(width.count, dtype=bool)
        going = width.count - 1 if count is None else count
        order, price = eliminated(readers_of(width, copies), left, width.count - going)
        rest = np.setdiff1d(np.arange(width.count), order)[: width.count - 1 - len(order)]
        # Those that stay whatever the price.
        prices = np.concatenate([np.maximum.accumulate(price) if len(price) else price, np.full(len(rest), np.inf)])
        return Path(np.concatenate([order, rest]), prices)

    def exchange(self, kept: list[Mask]) -> None:
        """Exchange units of the widths that several layers read, for all of these together."""
        for number, width in enumerate(self.plan.widths):
            if len(width.readers) == 1 or kept[number].all():
                continue
            readers = readers_of(width, {key: self._waiting[key].copy() for key in width.columns})
            move(readers, np.flatnonzero(~kept[number]))
            kept[number], count = exchanged(readers, kept[number])
            self.exchanged += count


def _at_one_price(
    plan: Plan, paths: Sequence[Path], counts: Mapping[int, int], sparsity: float, saving: Saving
) -> dict[int, int]:
    """How many units go of the widths that have no count, at one price for what they save."""
    free = [number for number in range(len(paths)) if number not in counts]
    prices = [paths[number].price / max(1.0, saving.unit(plan.widths[number])) for number in free]
    owners = np.repeat(np.array(free, dtype=np.intp), [len(price) for price in prices])
    order = owners[np.argsort(np.concatenate([*prices, np.zeros(0)]), kind="stable")]
    whole = saving.left(plan, plan.everything)
    wanted = whole * (1 - sparsity / 100)

    def left(going: int) -> float:
        dropped = np.bincount(order[:going], minlength=len(paths))
        kept = [path.kept(counts.get(number, int(dropped[number]))) for number, path in enumerate(paths)]
        return saving.left(plan, kept)

    if (least := left(len(order))) > wanted + 1e-6:
        reach = math.floor(1000 * (1 - least / whole)) / 10
        raise refused("sparsity", f"{sparsity:g} % cannot be reached by dropping units; {reach:g} % can")
    low, high = -1, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= wanted + 1e-6 else (middle, high)
    dropped = np.bincount(order[:high], minlength=len(paths))
    return {number: int(dropped[number]) for number in free}


def shares_of(plan: Plan, choice: Any) -> dict[int, float]:
    """The shares of their own that widths have, by number; InputError for a rule of layers that make no units."""
    found: dict[int, float] = {}
    used: set[str] = set()
    for number, width in enumerate(plan.widths):
        rules = [rule for rule in map(choice.rule, width.rows) if rule is not None and rule[1] is not None]
        if rules:
            found[number] = rules[0][1]
            used.update(pattern for pattern, _ in rules)
    for pattern, share in choice.rules:
        if share is not None and pattern not in used:
            known = ", ".join(repr(name) for width in plan.widths for name in width.rows)
            raise refused("layers", f"{pattern!r} names no layer with states that can be dropped; these have: {known}")
    return found
