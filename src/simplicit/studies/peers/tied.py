"""Pruning methods on networks with convolutions: layer by layer on the Gram matrix of the patches.

A method sees what :func:`simplicit.fit` sees: the same samples, patches, batches and order of layers. As published it
matches the dense weights on the layer's own inputs, and leaves biases and batch norms as they are. With ``states`` it
is given what fit has besides: the baseline's states as targets, less the error of the skip path in a residual branch,
with means taken off; with ``correct`` constants and the statistics of batch norms are corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from simplicit.errors import InputError
from simplicit.network import NetworkGraph, with_constants
from simplicit.studies.peers.base import Array, Layer, Peer, keep_largest
from simplicit.training.channels.layers import TiedLayer, tied_layers
from simplicit.training.channels.rows import TiedProblem
from simplicit.training.channels.statistics import Statistics
from simplicit.training.channels.sweep import Sweep
from simplicit.training.channels.walk import batches_of

__all__ = ["TiedNetwork"]


@dataclass(frozen=True, eq=False)
class TiedNetwork:
    """A baseline with convolutions, and the calibration samples.

    Attributes
    ----------
    graph : NetworkGraph
    samples : tensor (m, *input_shape)
    batch_size : int
    """

    graph: NetworkGraph
    samples: Tensor
    batch_size: int = 50

    @cached_property
    def layers(self) -> list[TiedLayer]:
        """In the order of evaluation."""
        return tied_layers(self.graph)

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of each layer."""
        return {layer.name: layer.size for layer in self.layers}

    def uniform(self, sparsity: float) -> dict[str, int]:
        """The same share of every layer's weights stays."""
        return {name: int(size * (1 - sparsity / 100) + 1e-9) for name, size in self.sizes.items()}

    def by_size(self, sparsity: float) -> dict[str, int]:
        """The largest weights of the whole network stay."""
        weights = [self.graph.constants[layer.weight].double().numpy().ravel() for layer in self.layers]
        count = int(sum(self.sizes.values()) * (1 - sparsity / 100) + 1e-9)
        kept = keep_largest(np.abs(np.concatenate(weights)), count)
        parts = np.split(kept, np.cumsum([len(one) for one in weights])[:-1])
        return {layer.name: int(part.sum()) for layer, part in zip(self.layers, parts, strict=True)}

    def pruned(self, peer: Peer, counts: Mapping[str, int], *, states: bool, correct: bool) -> nn.Module:
        """The network with every layer pruned, one after another, each on the states of those before it.

        Parameters
        ----------
        peer : Peer
        counts : mapping of str to int
            How many weights stay in each layer.
        states : bool
            Match the baseline's states; otherwise the dense weights on the layer's own inputs.
        correct : bool
            Correct constants and batch norms.

        Raises
        ------
        InputError
            A layer is to keep more weights than it has.
        """
        for layer in self.layers:
            if not 0 <= counts[layer.name] <= layer.size:
                raise InputError(
                    f"counts: layer {layer.name} has {layer.size} weights, got {counts[layer.name]} to keep"
                )

        def prune(layer: TiedLayer, statistics: Statistics) -> Array:
            each = np.diff(np.linspace(0, counts[layer.name], layer.groups + 1).astype(int))
            constant = states and layer.constant
            return np.stack(
                [
                    peer.prune(_layer(statistics, group, int(count), states=states, constant=constant))
                    for group, count in enumerate(each)
                ]
            )

        sweep = Sweep(self.graph, self.layers, batches_of(self.samples, self.batch_size), correct=correct)
        changed, _ = sweep.run(prune)
        return with_constants(self.graph, changed)


def _layer(statistics: Statistics, group: int, count: int, *, states: bool, constant: bool) -> Layer:
    """What a method is given of a group of channels."""
    problem = TiedProblem.of(statistics, group, constant=constant)
    weights = statistics.weights[group]
    return Layer(weights, problem.gram, problem.cross if states else weights @ problem.gram, count)
