"""One pass over a network: layer after layer, statistics in, new weights out, and on with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.moments import Moments
from simplicit.training.channels.norms import constants_of
from simplicit.training.channels.statistics import Gathering, Statistics
from simplicit.training.channels.walk import Walk

__all__ = ["Solver", "Sweep"]

Array = npt.NDArray[np.float64]
#: A variance below this share of the squared mean is rounding.
ROUNDED = 1e-14
#: From a layer and its statistics to its new weights, (g, r, d).
Solver = Callable[[ChannelLayer, Statistics], Array]


@dataclass(frozen=True, eq=False)
class Sweep:
    """How a network is gone through.

    Attributes
    ----------
    graph : NetworkGraph
    layers : list of ChannelLayer
        In the order of evaluation.
    batches : list of tensors
        The calibration samples.
    own : bool
        Every layer on the student's inputs; otherwise on the baseline's.
    own_output : bool
        The last layer on the student's inputs in any case.
    correct : bool
        Whether constants and norms are corrected.
    omegas : mapping from the names of layers to ω, batch by batch
        How much positions count; all alike in a layer that is not there.
    """

    graph: NetworkGraph
    layers: list[ChannelLayer]
    batches: list[Tensor]
    own: bool = True
    own_output: bool = True
    correct: bool = True
    omegas: Mapping[str, list[Tensor]] = field(default_factory=dict)

    def statistics(self) -> Iterator[tuple[ChannelLayer, Statistics]]:
        """Layer after layer, on the baseline."""
        walk = Walk(self.graph, self.batches)
        for layer in self.layers:
            walk.run_until(layer.node)
            yield layer, Gathering(walk, layer, own=False, omega=self.omegas.get(layer.name)).statistics()

    def run(self, solve: Solver) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The new constants of the graph, by placeholder, and the relative error of each layer."""
        walk, errors = Walk(self.graph, self.batches), {}
        for place, layer in enumerate(self.layers):
            walk.run_until(layer.node)
            own = self.own or (self.own_output and place == len(self.layers) - 1)
            later = frozenset(one.node.name for one in self.layers[place:])
            statistics = Gathering(walk, layer, later, own=own, omega=self.omegas.get(layer.name)).statistics()
            weights = solve(layer, statistics)
            moments = Moments.of(statistics, weights)
            old = self.graph.constants[layer.weight]
            changed = {layer.weight: torch.from_numpy(weights).reshape(old.shape).to(old.dtype)}
            if self.correct:
                changed |= constants_of(self.graph, layer, moments)
            walk.change(changed)
            errors[layer.name] = _relative(moments)
        return walk.changed, errors


def _relative(moments: Moments) -> float:
    """‖t − ẑ‖/‖t‖ about the means."""
    energy = float(moments.target_variance.sum())
    # Targets that do not vary leave only rounding behind.
    varies = energy > ROUNDED * float(np.square(moments.target_mean).sum())
    return float(np.sqrt(moments.error.sum() / energy)) if varies else 0.0
