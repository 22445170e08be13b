"""One pass over a network: layer after layer, statistics in, new weights out, and on with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simplicit.network.graph import NetworkGraph
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.moments import Moments
from simplicit.training.channels.norms import constants_of
from simplicit.training.channels.statistics import Gathering, Statistics
from simplicit.training.channels.walk import Walk
from simplicit.training.provider import relative_error

#: From a layer and its statistics to its new weights, (g, r, d).
Solver = Callable[[ChannelLayer, Statistics], Array]


@dataclass(frozen=True, eq=False)
class Sweep:
    """How a network is gone through, on samples in ``batches``, its ``layers`` in the order of evaluation.

    Every layer is fitted on the student's inputs with ``propagate``, or on the baseline's; the last one on the
    student's with ``regenerate`` too. Constants and norms are corrected with ``correct``. ``omegas`` say how much
    positions count, ω by the layer's name and then batch by batch; they are all alike in a layer that is not there.
    """

    graph: NetworkGraph
    layers: list[ChannelLayer]
    batches: list[Tensor]
    propagate: bool = True
    regenerate: bool = True
    correct: bool = True
    omegas: Mapping[str, list[Tensor]] = field(default_factory=dict)

    def statistics(self) -> Iterator[tuple[ChannelLayer, Statistics]]:
        """Layer after layer, on the baseline."""
        walk = Walk(self.graph, self.batches)
        for layer in self.layers:
            walk.run_until(layer.node)
            yield layer, Gathering(walk, layer, propagated=False, omega=self.omegas.get(layer.name)).statistics()

    def run(self, solve: Solver) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The new constants of the graph, by placeholder, and the relative error of each layer."""
        walk, errors = Walk(self.graph, self.batches), {}
        for place, layer in enumerate(self.layers):
            walk.run_until(layer.node)
            propagated = self.propagate or (self.regenerate and place == len(self.layers) - 1)
            untrained = frozenset(one.node.name for one in self.layers[place:])
            omega = self.omegas.get(layer.name)
            statistics = Gathering(walk, layer, untrained, propagated=propagated, omega=omega).statistics()
            weights = solve(layer, statistics)
            old = self.graph.constants[layer.weight]
            changed = {layer.weight: torch.from_numpy(weights).reshape(old.shape).to(old.dtype)}
            if self.correct:
                changed |= constants_of(self.graph, layer, Moments.of(statistics, weights))
            walk.change(changed)
            pairs = zip(walk.student(layer.result), walk.baseline(layer.result), strict=True)
            errors[layer.name] = relative_error((z.double().numpy(), t.double().numpy()) for z, t in pairs)
        return walk.changed, errors
