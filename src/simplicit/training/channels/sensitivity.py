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
products along the graph, ‖y'v‖² with orthonormal v drawn for each sample: exact with as many as there are outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import lookups_checked, refused
from simplicit.machine import one_thread_each, side_by_side
from simplicit.network.graph import NetworkGraph
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer, Use, nodes_before
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.store import Store
from simplicit.training.support.allocation import least_sensitivity

#: Vector-Jacobian products behind the estimate, at most; each is a backward pass of the network over all samples. Five
#: for ten outputs saved a tenth of the time of ResNet-20, and cost a point and a half of its accuracy at 95 % zeros.
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
    workers: int = 1,
) -> dict[str, Sensitivity]:
    """How far errors move the outputs, by the names of the layers; InputError if derivatives are not finite.

    Positions that ``masks`` leave out are not counted. What positions count is kept in the ``store``, and so many
    ``workers`` differentiate a batch each.
    """
    store = Store() if store is None else store
    sums = {use.node: _Squares(layer, use, masks, store) for layer in layers for use in layer.uses}
    begins = np.cumsum([0, *map(len, batches)]).tolist()

    def of_batch(place: int) -> dict[Node, _Part]:
        found = _differentiated(graph, set(sums), batches[place], begins[place])
        return {node: sums[node].part(squares, place) for node, squares in found.items()}

    with one_thread_each():
        for parts in side_by_side(of_batch, range(len(batches)), workers):
            for node, part in parts.items():
                sums[node].add(part)
    varies = {layer.name: any(_varies(graph, use) for use in layer.uses) for layer in layers}
    found = {one.name: _together([sums[use.node] for use in one.uses], varies=varies[one.name]) for one in layers}
    least = least_sensitivity(max((float(one.channels.max()) for one in found.values()), default=0.0))
    return {name: Sensitivity(np.maximum(one.channels, least), one.positions) for name, one in found.items()}


def _varies(graph: NetworkGraph, use: Use) -> bool:
    """Whether what a layer is applied to depends on the sample."""
    return any(node.op == "placeholder" and node.name not in graph.constants for node in nodes_before(use.source))


class _Scaled:
    """Sums of squares like a result, in the making: what they are times a power of two squared, the ``scale``.

    So they stay in the range of their dtype. A scale of 0 says that no derivative but zero was seen.
    """

    def __init__(self, like: Tensor) -> None:
        self.sums, self.scale = torch.zeros_like(like), 0.0

    def add(self, gradient: Tensor) -> None:
        """The derivatives by one probe."""
        low, high = torch.aminmax(gradient)
        largest = max(-float(low), float(high))
        if 0 < largest < np.inf and (not self.scale or largest * self.scale > LARGEST):
            scale = 2.0 ** -min(max(round(math.log2(largest)), -LARGEST_POWER), LARGEST_POWER)
            ratio = scale / (self.scale or scale)
            self.sums.mul_(ratio).mul_(ratio)
            self.scale = scale
        scale = self.scale or 1.0
        if 1 / LARGEST < scale < LARGEST:  # a power of two, which rounds nothing
            self.sums.addcmul_(gradient, gradient, value=scale * scale)
        else:
            scaled = gradient * scale
            self.sums.addcmul_(scaled, scaled)


@dataclass(frozen=True, eq=False)
class _Part:
    """g of a use on a batch: ``channels`` (rows,) summed over ``count`` positions, ``positions`` over the channels of
    each group, both with a ``scale`` as it is in :class:`_Scaled`."""

    channels: Tensor
    positions: Tensor
    count: int
    scale: float


class _Squares:
    """g of a use of a layer, batch by batch."""

    def __init__(self, layer: ChannelLayer, use: Use, masks: Masks | None, store: Store) -> None:
        self.layer, self.use, self.masks = layer, use, masks
        self.channel = use.form.channel
        self.batches: list[_Part] = []  # without their positions, which are in the store
        self.positions = store.values(f"{use.node.name}-positions")

    def part(self, found: _Scaled, place: int) -> _Part:
        """What the batch of that number comes to."""
        squares = self.use.form.laid(found.sums)
        channel = squares.ndim + self.channel
        kept = None if self.masks is None else self.masks.kept(self.use, place)
        if kept is not None:
            squares = squares * kept
        grouped = squares.reshape(*squares.shape[:channel], self.layer.groups, -1, *squares.shape[channel + 1 :])
        count = squares.numel() // self.layer.rows if kept is None else int(kept.sum())
        channels = squares.movedim(channel, 0).reshape(self.layer.rows, -1).sum(dim=1, dtype=torch.float64)
        return _Part(channels, grouped.sum(dim=channel + 1), count, found.scale)

    def add(self, part: _Part) -> None:
        """The next batch."""
        self.positions.append(part.positions)
        self.batches.append(replace(part, positions=torch.empty(0)))

    @property
    def count(self) -> int:
        return sum(one.count for one in self.batches)

    @property
    def scale(self) -> float:
        """That of the largest derivatives; 0 where there are none."""
        return min((one.scale for one in self.batches if one.scale), default=0.0)

    def channels(self, scale: float) -> Tensor:
        """All batches together, (rows,), by that scale."""
        return torch.stack([one.channels * _ratio(one, scale) * _ratio(one, scale) for one in self.batches]).sum(0)

    def at(self, place: int, scale: float) -> Tensor:
        """The positions of a batch, by that scale."""
        found: Tensor = self.positions[place]
        ratio = _ratio(self.batches[place], scale)
        return found if ratio == 1 else found * ratio * ratio


def _ratio(part: _Part, scale: float) -> float:
    """What derivatives of a batch are multiplied by to have another scale."""
    return scale / part.scale if part.scale else 1.0


def _together(uses: list[_Squares], *, varies: bool) -> Sensitivity:
    """Of all uses of a layer, after all batches; ``varies`` says whether its input does."""
    layer = uses[0].layer
    scale = min((one.scale for one in uses if one.scale), default=1.0)
    total, count = torch.stack([one.channels(scale) for one in uses]).sum(0), sum(one.count for one in uses)
    if not bool(total.isfinite().all()):
        raise refused(
            "net",
            f"the derivatives of the outputs by layer {layer.name!r}, by which errors are weighed, are not "
            f"finite in {uses[0].at(0, scale).dtype}; take network and inputs in float64 if they are not",
        )
    channels = (total / count).numpy() / scale / scale
    if not varies or not bool(total.any()):
        return Sensitivity(channels, None)
    return Sensitivity(channels, _Positions(uses, scale, total.reshape(layer.groups, -1).sum(1) / count))


class _Positions(Sequence[Tensor]):
    """What positions count beside the mean of their group, use by use and batch by batch."""

    def __init__(self, uses: list[_Squares], scale: float, means: Tensor) -> None:
        self._uses, self._scale, self._means = uses, scale, means

    def __len__(self) -> int:
        return sum(len(one.positions) for one in self._uses)

    def __getitem__(self, place: Any) -> Any:
        number, batch = divmod(place, len(self._uses[0].positions))
        one = self._uses[number]
        part = one.at(batch, self._scale)
        shape = [1] * part.ndim
        shape[one.channel] = -1
        means = self._means.reshape(shape)
        return torch.where(means > 0, part / means, 1.0).to(part.dtype)


def _differentiated(graph: NetworkGraph, nodes: set[Node], inputs: Tensor, first: int) -> dict[Node, _Scaled]:
    """The squared derivatives by the nodes on a batch, whose first sample is number ``first``."""
    with torch.enable_grad():
        probed = _Probed(graph, nodes)
        with lookups_checked():
            outputs = probed.run(*graph.constants.values(), inputs)
            outputs = outputs.reshape(len(outputs), -1)  # a network may give one number for a sample
        found = {node: _Scaled(offset) for node, offset in probed.offsets.items()}
        offsets = list(probed.offsets.values())
        for probe in _probes(outputs, first):
            moved = (outputs * probe).sum()
            gradients = torch.autograd.grad(moved, offsets, retain_graph=True, allow_unused=True)
            for squares, gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    squares.add(gradient)
    return found


def _probes(outputs: Tensor, first: int) -> Tensor:
    """Vectors v with the mean of Σ v vᵀ near the identity; (probes, 1 or b, q).

    They depend on the number of the sample alone, not on how samples come in batches.
    """
    q = outputs.shape[1]
    count = min(q, PROBES)
    if q == count:
        return torch.eye(q, dtype=outputs.dtype).unsqueeze(1)
    generator, normal = torch.Generator(), torch.empty(len(outputs), q, count, dtype=torch.float64)
    for place, one in enumerate(normal):
        one.normal_(generator=generator.manual_seed(first + place))
    orthonormal: Tensor = torch.linalg.qr(normal).Q * math.sqrt(q / count)
    return orthonormal.permute(2, 0, 1).to(outputs.dtype)


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
