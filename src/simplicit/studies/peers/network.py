"""Pruning methods on whole networks: layer by layer on the Gram matrix of the patches.

A linear layer is a convolution with one position. A method sees what :func:`simplicit.fit` sees: the same samples,
patches, batches and order of layers. As published it matches the dense weights on the layer's own inputs, and leaves
biases and batch norms as they are. With ``states`` it is given what fit has besides: the baseline's states as targets,
less the error of the skip path in a residual branch, with means taken off where a constant is free; with ``correct``
constants and the statistics of batch norms are corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.network import with_constants
from simplicit.network.graph import NetworkGraph
from simplicit.studies.peers.base import Array, Layer, Peer
from simplicit.training.channels.finding import channel_layers
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.moments import sums_of
from simplicit.training.channels.parts import part_of
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.statistics import Statistics
from simplicit.training.channels.sweep import Sweep
from simplicit.training.support.pattern import Pattern
from simplicit.training.support.thresholding import keep_largest


@dataclass(frozen=True, eq=False)
class Network:
    """A baseline to prune, with the calibration samples.

    Attributes
    ----------
    graph : NetworkGraph
        Statistics are taken in the dtype of its network, and summed up in float64.
    samples : tensor (m, *input_shape)
        As :func:`~simplicit.training.channels.samples.samples_of` makes them of other inputs; where the network has an
        ``attention_mask``, padding is left out of the sums.
    batch_size : int
    """

    graph: NetworkGraph
    samples: Tensor
    batch_size: int = 50

    @cached_property
    def layers(self) -> list[ChannelLayer]:
        """The layers in the order of evaluation."""
        return channel_layers(self.graph)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of weights of each layer."""
        return {layer.name: layer.size for layer in self.layers}

    def uniform(self, sparsity: float) -> dict[str, int]:
        """Return how many weights stay where each layer keeps the same share of them."""
        return {name: _left(size, sparsity) for name, size in self.sizes.items()}

    def by_size(self, sparsity: float) -> dict[str, int]:
        """Return how many weights stay where the largest of the whole network do."""
        weights = [layer.kernel(self.graph.constants[layer.weight]).double().numpy().ravel() for layer in self.layers]
        kept = keep_largest(np.abs(np.concatenate(weights)), _left(sum(self.sizes.values()), sparsity))
        parts = np.split(kept, np.cumsum([len(one) for one in weights])[:-1])
        return {layer.name: int(part.sum()) for layer, part in zip(self.layers, parts, strict=True)}

    def by_pattern(self, pattern: Pattern) -> dict[str, int]:
        """Return how many weights stay where each layer has a pattern that can have it; others stay dense."""
        return {
            layer.name: layer.size * pattern.kept // pattern.of if _divided(layer, pattern) else layer.size
            for layer in self.layers
        }

    def counts_of(self, network: nn.Module) -> dict[str, int]:
        """Return how many weights each layer of another network of the same class has that are not zero."""
        weights = dict(network.named_parameters())
        keys = {layer: layer.parameter for layer in self.layers}
        keys = {layer: name if name in weights else f"{name}.weight" for layer, name in keys.items()}
        return {layer.name: int(part_of(layer.part, weights[key]).count_nonzero()) for layer, key in keys.items()}

    def sparsity_of(self, network: nn.Module) -> float:
        """Return the share of weights that another network of the same class lacks, in per cent."""
        return 100.0 * (1.0 - sum(self.counts_of(network).values()) / sum(self.sizes.values()))

    def pruned(
        self,
        peer: Peer,
        counts: Mapping[str, int],
        *,
        states: bool,
        correct: bool = False,
        pattern: Pattern | None = None,
    ) -> nn.Module:
        """Return the network with every layer pruned, one after another, each on the states of those before it.

        Parameters
        ----------
        peer : Peer
        counts : mapping of str to int
            How many weights stay in each layer.
        states : bool
            Match the baseline's states; otherwise the dense weights on the layer's own inputs.
        correct : bool
            Correct constants and batch norms.
        pattern : Pattern, optional
            What the rows of linear layers have whose inputs its groups divide, with ``counts`` of :meth:`by_pattern`.

        Raises
        ------
        InputError
            A layer is to keep more weights than it has.
        """
        for name, size in self.sizes.items():
            if not 0 <= counts[name] <= size:
                raise refused("counts", f"layer {name} has {size} weights, got {counts[name]} to keep")

        def prune(layer: ChannelLayer, statistics: Statistics) -> Array:
            each = np.diff(np.linspace(0, counts[layer.name], layer.groups + 1).astype(int))
            constant = states and layer.constant
            parts = (
                _layer(statistics, g, int(count), states=states, constant=constant) for g, count in enumerate(each)
            )
            own = pattern if pattern and _divided(layer, pattern) else None
            return np.stack([peer.prune(replace(part, pattern=own)) for part in parts])

        batches = batches_of(self.samples, self.batch_size)
        masks = Masks.of(self.graph, batches, None, self.batch_size)
        sweep = Sweep(self.graph, self.layers, batches, correct=correct, masks=masks)
        changed, _ = sweep.run(prune)
        return with_constants(self.graph, changed)


def _left(size: int, sparsity: float) -> int:
    """Return how many of ``size`` weights a sparsity in per cent leaves; rounding of the share takes none away."""
    return int(size * (1 - sparsity / 100) + 1e-9)


def _divided(layer: ChannelLayer, pattern: Pattern) -> bool:
    """Whether the inputs of a linear layer are whole groups of a pattern."""
    return layer.geometry is None and layer.columns % pattern.of == 0


def _layer(statistics: Statistics, group: int, count: int, *, states: bool, constant: bool) -> Layer:
    """Return what a method is given of a group of channels."""
    sums, weights = sums_of(statistics, group, constant=constant), statistics.weights[group]
    return Layer(weights, sums.gram, sums.cross if states else weights @ sums.gram, count)
