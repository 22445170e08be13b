r"""One pass over a network: layer after layer, statistics in, new weights out, and on with them.

Layers are solved in the order of their last uses. A weight that is used once is solved when the student's inputs to it
are there. One that is used several times is one problem over all its uses, and what its later uses see depends on the
weight itself: there the student still has the baseline's weight in all of them, and the new weights of all layers
solved before wherever those are used. The targets are the baseline's pre-activations at each use. Then the student
starts from the network's inputs again, since the new weight stands before what was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.machine import one_thread_each, side_by_side
from simplicit.network.graph import NetworkGraph
from simplicit.progress import counted
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer, Use
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.moments import Moments
from simplicit.training.channels.norms import constants_of
from simplicit.training.channels.statistics import Gathering, Statistics
from simplicit.training.channels.store import Store
from simplicit.training.channels.walk import Walk
from simplicit.training.provider import relative_error, squared_error

#: From a layer and its statistics to its new weights, (g, r, d).
Solver = Callable[[ChannelLayer, Statistics], Array]


@dataclass(frozen=True, eq=False)
class Sweep:
    """How a network is gone through, on samples in ``batches``, its ``layers`` in the order of their last uses.

    Every layer is fitted on the student's inputs with ``propagate``, or on the baseline's; the last one on the
    student's with ``regenerate`` too. Constants and norms are corrected with ``correct``. ``omegas`` say how much
    positions count, ω by the layer's name and then use by use and batch by batch; they are all alike in a layer that is
    not there. ``masks`` say which positions count at all. States are kept in the ``store``, and
    batches go on so many ``workers``.
    """

    graph: NetworkGraph
    layers: list[ChannelLayer]
    batches: Sequence[Tensor]
    propagate: bool = True
    regenerate: bool = True
    correct: bool = True
    omegas: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    masks: Masks | None = None
    store: Store = field(default_factory=Store)
    workers: int = 1

    def statistics(self) -> Iterator[tuple[ChannelLayer, Statistics]]:
        """Layer after layer, on the baseline, where patches are many of some samples."""
        walker = Walker(self.graph, self.batches, self.store, self.workers)
        for layer in self.layers:
            omega = self.omegas.get(layer.name)
            gathering = Gathering(
                walker.before(layer),
                layer,
                propagated=False,
                omega=omega,
                masks=self.masks,
                workers=self.workers,
                thinned=True,
            )
            statistics = gathering.statistics()
            del gathering  # and with it a walk that may be given up for another
            yield layer, statistics

    def run(self, solve: Solver) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The new constants of the graph, by placeholder, and the relative error of each layer."""
        walker, errors = (
            Walker(self.graph, self.batches, self.store, self.workers),
            {layer.name: 0.0 for layer in self.layers},
        )
        for place, layer in enumerate(self.layers):
            self._solve(walker, place, solve)
            if not layer.shared:
                errors[layer.name] = self._error(walker.walk, layer)
        for layer in self.layers:
            if layer.shared:
                errors[layer.name] = self._error(walker.before(layer), layer)
        return walker.changed, errors

    def errors(self, changed: Mapping[str, Tensor]) -> dict[str, float]:
        """The relative error of each layer of a student with these constants."""
        walker = Walker(self.graph, self.batches, self.store, self.workers, changed)
        return {layer.name: self._error(walker.before(layer), layer) for layer in self.layers}

    def _solve(self, walker: Walker, place: int, solve: Solver) -> None:
        """Come to the layer of that number, solve it, and go on with its new constants."""
        layer = self.layers[place]
        propagated = self.propagate or (self.regenerate and place == len(self.layers) - 1)
        untrained = frozenset(use.node.name for one in self.layers[place:] for use in one.uses)
        omega = self.omegas.get(layer.name)
        gathering = Gathering(walker.before(layer), layer, untrained, propagated, omega, self.masks, self.workers)
        statistics = gathering.statistics()
        weights = solve(layer, statistics)
        now = {**self.graph.constants, **walker.changed}
        changed = layer.changed(torch.from_numpy(weights), now[layer.weight])
        if self.correct:
            changed |= constants_of(now, layer, Moments.of(statistics, weights))
        walker.change(layer, changed)

    def _error(self, walk: Walk, layer: ChannelLayer) -> float:
        """The error of the student's results of a layer, all uses together."""
        return relative_error(part for use in layer.uses for part in self._errors(walk, use))

    def _errors(self, walk: Walk, use: Use) -> list[tuple[float, float]]:
        """Squared error and energy of a use's results, batch by batch."""
        walk.run_until(use.node)
        student, baseline = walk.student(use.result), walk.baseline(use.result)

        def of_batch(place: int) -> tuple[float, float]:
            kept = None if self.masks is None else self.masks.kept(use, place)
            pair = student[place], baseline[place]
            parts = pair if kept is None else [_chosen(use, z, kept) for z in pair]
            return squared_error(*(z.double().numpy() for z in parts))

        with one_thread_each():
            found = side_by_side(of_batch, range(len(self.batches)), self.workers)
            return list(counted(found, "checking", len(self.batches)))


def _chosen(use: Use, z: Tensor, kept: Tensor) -> Tensor:
    """The positions of a result that count, (g, r, n)."""
    return use.form.split(use.form.laid(z))[:, :, use.form.positions(kept)]


class Walker:
    """A walk that begins anew where a layer's first use lies behind it, or where what it has computed has changed."""

    def __init__(
        self,
        graph: NetworkGraph,
        batches: Sequence[Tensor],
        store: Store,
        workers: int = 1,
        changed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.graph, self.batches, self.store, self.workers = graph, batches, store, workers
        self.changed: dict[str, Tensor] = dict(changed or {})
        self._order: dict[Node, int] = {node: place for place, node in enumerate(graph.module.graph.nodes)}
        self._begin()

    def _begin(self) -> None:
        self._reached = 0
        self.walk = Walk(self.graph, self.batches, self.store, self.workers)
        self.walk.change(self.changed)

    def before(self, layer: ChannelLayer) -> Walk:
        """A walk that can go through the uses of a layer, from the first to the last."""
        if self._order[layer.uses[0].node] < self._reached:
            self._begin()
        self._reached = self._order[layer.node]
        self.walk.run_until(layer.uses[0].node)
        return self.walk

    def change(self, layer: ChannelLayer, constants: Mapping[str, Tensor]) -> None:
        """Give the student new constants of the layer that was come to."""
        self.changed |= constants
        if layer.shared:
            self._reached = len(self._order)
        else:
            self.walk.change(constants)
