r"""How far an error in a pre-activation moves the outputs, channel by channel and position by position.

To first order an error e in channel i at position q of a sample moves the outputs by e·∂y/∂z_iq. With errors that are
uncorrelated, the outputs' squared error is the sum of

    g_iq e_iq²        g_iq = ‖∂y/∂z_iq‖²

over channels, positions and samples. One Gram matrix has to do for a group of channels (all of a layer, unless its
convolution is grouped), so g is taken for the product of its margins, g_iq ≈ sᵢω_q:

    sᵢ = mean over q of g_iq        ω_q = Σᵢ g_iq / mean over q of Σᵢ g_iq        i in the group

The positions of a weight that is used several times are those of all its uses. A layer's least squares weight a
position by ω_q, whose mean is 1: what nothing looks at counts for nothing. sᵢ compares channels, so that one price for
a weight holds in the whole network. The squared norm is estimated from vector-Jacobian products along the graph, stage
by stage (:mod:`~simplicit.training.channels.derivatives`): ‖y'v‖² with orthonormal v drawn for each sample, exact with
as many as there are outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from simplicit.checks import refused
from simplicit.machine import one_thread_each, side_by_side
from simplicit.network.graph import NetworkGraph
from simplicit.progress import counted
from simplicit.rows.batch import Array
from simplicit.training.channels.derivatives import PROBES, Scaled, squared_derivatives
from simplicit.training.channels.layers import ChannelLayer, Use, nodes_before
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.stages import Stages, numbers
from simplicit.training.channels.store import Store
from simplicit.training.support.allocation import least_sensitivity


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
    stages = differentiated_in(graph, layers, max(map(len, batches)))
    axes = stages.axes or {}
    sums = {one.node: _Squares(layer, one, masks, store, axes.get(one.node)) for layer in layers for one in layer.uses}
    begins = np.cumsum([0, *map(len, batches)]).tolist()

    def of_batch(place: int) -> dict[Node, list[_Part]]:
        batch, first = batches[place], 0
        found: dict[Node, list[_Part]] = {node: [] for node in sums}
        for part in batches_of(batch, stages.at_a_time(len(batch))):
            for node, squares in squared_derivatives(graph, stages, part, begins[place] + first, store):
                found[node].append(sums[node].part(squares, place, first, len(part)))
            first += len(part)
        return found

    with one_thread_each():
        found_parts = side_by_side(of_batch, range(len(batches)), workers)
        for parts in counted(found_parts, "what errors do to the outputs", len(batches)):
            for node, own in parts.items():
                sums[node].add(own)
    varies = {layer.name: any(_varies(graph, use) for use in layer.uses) for layer in layers}
    found = {one.name: _together([sums[use.node] for use in one.uses], varies=varies[one.name]) for one in layers}
    least = least_sensitivity(max((float(one.channels.max()) for one in found.values()), default=0.0))
    return {name: Sensitivity(np.maximum(one.channels, least), one.positions) for name, one in found.items()}


def differentiated_in(graph: NetworkGraph, layers: list[ChannelLayer], samples: int) -> Stages:
    """The stages in which a graph is differentiated on batches of so many samples."""
    return Stages.of(graph, layers, min(PROBES, numbers(graph.output)), samples)


def _varies(graph: NetworkGraph, use: Use) -> bool:
    """Whether what a layer is applied to depends on the sample."""
    return any(node.op == "placeholder" and node.name not in graph.constants for node in nodes_before(use.source))


@dataclass(frozen=True, eq=False)
class _Part:
    """g of a use on some samples: ``channels`` (rows,) summed over ``count`` positions, ``positions`` over the channels
    of each group, both with a ``scale`` as it is in :class:`Scaled`."""

    channels: Tensor
    positions: Tensor
    count: int
    scale: float


class _Squares:
    """g of a use of a layer, batch by batch, of which parts follow one another along an ``axis``."""

    def __init__(self, layer: ChannelLayer, use: Use, masks: Masks | None, store: Store, axis: int | None) -> None:
        self.layer, self.use, self.masks, self.axis = layer, use, masks, axis
        self.channel = use.form.channel
        self.batches: list[list[_Part]] = []  # without their tensors, which are in the store
        self._kept = store.values(f"{use.node.name}-derivatives")

    def part(self, found: Scaled, place: int, first: int, samples: int) -> _Part:
        """What some samples of the batch of that number come to, as many as there are from the first on."""
        squares = self.use.form.laid(found.sums)
        channel = squares.ndim + self.channel
        kept = self._counted(place, first, samples)
        if kept is not None:
            squares = squares * kept
        grouped = squares.reshape(*squares.shape[:channel], self.layer.groups, -1, *squares.shape[channel + 1 :])
        count = squares.numel() // self.layer.rows if kept is None else int(kept.sum())
        channels = squares.movedim(channel, 0).reshape(self.layer.rows, -1).sum(dim=1, dtype=torch.float64)
        return _Part(channels, grouped.sum(dim=channel + 1), count, found.scale)

    def _counted(self, place: int, first: int, samples: int) -> Tensor | None:
        """Which positions of some samples of a batch count."""
        kept = None if self.masks is None else self.masks.kept(self.use, place)
        if self.masks is None or kept is None or self.axis is None:
            return kept
        each = kept.shape[self.axis] // len(self.masks.batches[place])
        return kept.narrow(self.axis, first * each, samples * each)

    def add(self, parts: list[_Part]) -> None:
        """The next batch."""
        self._kept.append(tuple((part.positions, part.channels) for part in parts))
        nothing = torch.empty(0)
        self.batches.append([replace(part, positions=nothing, channels=nothing) for part in parts])

    @property
    def parts(self) -> list[_Part]:
        """Those of all batches."""
        return [part for batch in self.batches for part in batch]

    @property
    def count(self) -> int:
        return sum(one.count for one in self.parts)

    @property
    def scale(self) -> float:
        """That of the largest derivatives; 0 where there are none."""
        return min((one.scale for one in self.parts if one.scale), default=0.0)

    def channels(self, scale: float) -> Tensor:
        """All batches together, (rows,), by that scale."""
        kept = (channels for batch in self._kept for _, channels in batch)
        ratios = [_ratio(one, scale) for one in self.parts]
        return torch.stack([one * ratio * ratio for one, ratio in zip(kept, ratios, strict=True)]).sum(0)

    def at(self, place: int, scale: float) -> Tensor:
        """The positions of a batch, by that scale."""
        ratios = [_ratio(one, scale) for one in self.batches[place]]
        pairs = zip(self._kept[place], ratios, strict=True)
        found: list[Tensor] = [one if ratio == 1 else one * ratio * ratio for (one, _), ratio in pairs]
        return found[0] if len(found) == 1 else torch.cat(found, dim=self.axis or 0)


def _ratio(part: _Part, scale: float) -> float:
    """What derivatives of a part are multiplied by to have another scale."""
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
        return sum(len(one.batches) for one in self._uses)

    def __getitem__(self, place: Any) -> Any:
        number, batch = divmod(place, len(self._uses[0].batches))
        one = self._uses[number]
        part = one.at(batch, self._scale)
        shape = [1] * part.ndim
        shape[one.channel] = -1
        means = self._means.reshape(shape)
        return torch.where(means > 0, part / means, 1.0).to(part.dtype)
