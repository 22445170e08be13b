r"""How far an error in a pre-activation moves the outputs, channel by channel and position by position.

To first order an error e in channel i at position q of a sample moves the outputs by e·∂y/∂z_iq. With errors that are
uncorrelated, the outputs' squared error is the sum of

    g_iq e_iq²        g_iq = ‖∂y/∂z_iq‖²

over channels, positions and samples. One Gram matrix has to do for a group of channels (all of a layer, unless its
convolution is grouped), so g is taken for the product of its margins, g_iq ≈ sᵢω_q:

    sᵢ = mean over q of g_iq        ω_q = Σᵢ g_iq / mean over q of Σᵢ g_iq        i in the group

The positions of a weight that is used several times are those of all its uses. A layer's least squares weight a
position by ω_q, whose mean is 1: what nothing looks at counts for nothing. sᵢ compares channels, so that one price for
a weight holds in the whole network. The squared norm is estimated from vector-Jacobian
products along the graph: exact with one for each output, from random signs where there are more than ten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import lookups_checked, refused
from simplicit.network.graph import NetworkGraph
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer, Use, nodes_before
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.store import Store
from simplicit.training.support.allocation import least_sensitivity

#: Vector-Jacobian products behind the estimate, at most; each is a backward pass of the network over all samples.
PROBES = 10
#: Scaled derivatives are at most so large, and the powers of two that scale them.
LARGEST, LARGEST_POWER = 2.0**30, 1000


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How far errors in one layer move the outputs: sᵢ of its ``channels``, (rows,), and ω of its ``positions``.

    These come use by use and batch by batch, as the layer's result is laid out, with groups in place of channels. There
    are none where all count alike: no output sees the layer, or its input is the same for all samples.
    """

    channels: Array
    positions: Sequence[Tensor] | None


def output_sensitivities(
    graph: NetworkGraph,
    layers: list[ChannelLayer],
    batches: Sequence[Tensor],
    masks: Masks | None = None,
    store: Store | None = None,
) -> dict[str, Sensitivity]:
    """How far errors move the outputs, by the names of the layers; InputError if derivatives are not finite.

    Positions that ``masks`` leave out are not counted. What positions count is kept in the ``store``.
    """
    store = Store() if store is None else store
    pairs = [(layer, use) for layer in layers for use in layer.uses]
    sums = {use.node: _Squares(layer, use, masks, store, varies=_varies(graph, use)) for layer, use in pairs}
    first = 0
    for place, batch in enumerate(batches):
        _differentiate(graph, sums, batch, first, place)
        first += len(batch)
    found = {layer.name: _together([sums[use.node] for use in layer.uses]) for layer in layers}
    least = least_sensitivity(max((float(one.channels.max()) for one in found.values()), default=0.0))
    return {name: Sensitivity(np.maximum(one.channels, least), one.positions) for name, one in found.items()}


def _varies(graph: NetworkGraph, use: Use) -> bool:
    """Whether what a layer is applied to depends on the sample."""
    return any(node.op == "placeholder" and node.name not in graph.constants for node in nodes_before(use.source))


class _Squares:
    """g of a use of a layer, probe by probe and batch by batch: for each channel summed over positions, and for each
    position over the channels of each group."""

    def __init__(self, layer: ChannelLayer, use: Use, masks: Masks | None, store: Store, *, varies: bool) -> None:
        self.layer, self.use, self.masks, self.varies = layer, use, masks, varies
        self.channel = use.form.channel
        self.scale = 0.0  # of the derivatives, so that squares stay in the range of their dtype; 0: none seen yet
        self.channels = torch.zeros(layer.rows, dtype=torch.float64)
        self.count = 0
        self.parts = store.values(f"{use.node.name}-positions")  # as they were when their batch was summed up
        self.ratios: list[float] = []  # of all rescalings,
        self.since: list[int] = []  # and how many of them were before each batch
        self.squares = torch.zeros(())

    def begin(self, like: Tensor) -> None:
        """A batch, with a result of this form."""
        self.squares = torch.zeros_like(like)

    def add(self, gradient: Tensor) -> None:
        """The derivatives at the batch by one probe."""
        low, high = torch.aminmax(gradient)
        largest = max(-float(low), float(high))
        if 0 < largest < np.inf and (not self.scale or largest * self.scale > LARGEST):
            self.rescale(2.0 ** -min(max(round(math.log2(largest)), -LARGEST_POWER), LARGEST_POWER))
        scale = self.scale or 1.0
        if 1 / LARGEST < scale < LARGEST:  # a power of two, which rounds nothing
            self.squares.addcmul_(gradient, gradient, value=scale * scale)
        else:
            scaled = gradient * scale
            self.squares.addcmul_(scaled, scaled)

    def rescale(self, scale: float) -> None:
        """What is summed up so far with another scale."""
        ratio = scale / (self.scale or scale)
        for sums in (self.channels, self.squares):
            sums.mul_(ratio).mul_(ratio)
        self.ratios.append(ratio)
        self.scale = scale

    def part(self, place: int) -> Tensor:
        """The sums over channels of a batch, as they are scaled now."""
        part: Tensor = self.parts[place]
        for ratio in self.ratios[self.since[place] :]:
            part = part * ratio * ratio
        return part

    def end(self, place: int) -> None:
        """Sum up the batch of that number."""
        squares = self.use.form.laid(self.squares)
        channel = squares.ndim + self.channel
        others = [axis for axis in range(squares.ndim) if axis != channel]
        kept = None if self.masks is None else self.masks.kept(self.use, place)
        if kept is not None:
            squares = squares * kept
        self.channels += squares.sum(dim=others, dtype=torch.float64)
        grouped = squares.reshape(*squares.shape[:channel], self.layer.groups, -1, *squares.shape[channel + 1 :])
        self.parts.append(grouped.sum(dim=channel + 1))
        self.since.append(len(self.ratios))
        self.squares = squares.new_zeros(())
        self.count += squares.numel() // self.layer.rows if kept is None else int(kept.sum())


def _together(uses: list[_Squares]) -> Sensitivity:
    """Of all uses of a layer, after all batches."""
    layer = uses[0].layer
    if not all(bool(one.channels.isfinite().all()) for one in uses):
        raise refused(
            "net",
            f"the derivatives of the outputs by layer {layer.name!r}, by which errors are weighed, are not "
            f"finite in {uses[0].squares.dtype}; take network and inputs in float64 if they are not",
        )
    scale = min((one.scale for one in uses if one.scale), default=1.0)
    for one in uses:
        if one.scale not in (0.0, scale):
            one.rescale(scale)
    total, count = torch.stack([one.channels for one in uses]).sum(0), sum(one.count for one in uses)
    channels = (total / count).numpy() / scale / scale
    if not any(one.varies for one in uses) or not bool(total.any()):
        return Sensitivity(channels, None)
    means = total.reshape(layer.groups, -1).sum(1) / count
    return Sensitivity(channels, _Positions(uses, means))


class _Positions(Sequence[Tensor]):
    """What positions count beside the mean of their group, use by use and batch by batch."""

    def __init__(self, uses: list[_Squares], means: Tensor) -> None:
        self._uses, self._means = uses, means

    def __len__(self) -> int:
        return sum(len(one.parts) for one in self._uses)

    def __getitem__(self, place: Any) -> Any:
        number, batch = divmod(place, len(self._uses[0].parts))
        one = self._uses[number]
        part = one.part(batch)
        shape = [1] * part.ndim
        shape[one.channel] = -1
        means = self._means.reshape(shape)
        return torch.where(means > 0, part / means, 1.0).to(part.dtype)


def _differentiate(graph: NetworkGraph, sums: dict[Node, _Squares], inputs: Tensor, first: int, place: int) -> None:
    """Add the derivatives at the batch number ``place``, whose first sample is number ``first``."""
    with torch.enable_grad():
        probed = _Probed(graph, set(sums))
        with lookups_checked():
            outputs = probed.run(*graph.constants.values(), inputs)
            outputs = outputs.reshape(len(outputs), -1)  # a network may give one number for a sample
        offsets = list(probed.offsets.values())
        for node, offset in probed.offsets.items():
            sums[node].begin(offset)
        for probe in _probes(outputs, first):
            moved = (outputs * probe).sum()
            gradients = torch.autograd.grad(moved, offsets, retain_graph=True, allow_unused=True)
            for node, gradient in zip(probed.offsets, gradients, strict=True):
                if gradient is not None:
                    sums[node].add(gradient)
    for one in sums.values():
        one.end(place)


def _probes(outputs: Tensor, first: int) -> Tensor:
    """Vectors v with the mean of v vᵀ near the identity, times their number; (probes, 1 or b, q).

    Signs depend on the number of the sample alone, not on how samples come in batches.
    """
    q = outputs.shape[1]
    if q <= PROBES:
        return torch.eye(q, dtype=outputs.dtype).unsqueeze(1)
    generator, signs = torch.Generator(), torch.empty(PROBES, len(outputs), q, dtype=outputs.dtype)
    for place in range(len(outputs)):
        signs[:, place] = torch.randint(0, 2, (PROBES, q), generator=generator.manual_seed(first + place))
    return torch.mul(2 * signs - 1, PROBES**-0.5)


class _Probed(Interpreter):
    """Runs the graph with an offset of zero on the result of every layer, to differentiate by."""

    def __init__(self, graph: NetworkGraph, nodes: set[Node]) -> None:
        super().__init__(graph.module)
        self._nodes = nodes
        self.offsets: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes:
            offset = torch.zeros_like(result, requires_grad=True)
            self.offsets[n] = offset
            result = result + offset
        return result
