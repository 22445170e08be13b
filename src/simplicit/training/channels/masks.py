r"""Which positions count: padding that fills sentences up to one length is left out of all sums.

A mask has one value for each token of each sample, (m, T), and leaves out what is zero. A layer's result may have its
tokens on any axis, or on one axis with the samples: its positions are followed back through views and transposes to
where both have axes of their own. Where they have none (the first token alone, pooled values) all positions count.

An axis is known by its length. One over which a layer sums, its columns, is none of positions, whatever its length;
where several others are as long as the mask, no one can say which has the tokens, and the mask is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.checks import as_array, refused
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.after import LAYING, laid_out
from simplicit.training.channels.forms import Convolution
from simplicit.training.channels.layers import ChannelLayer, Use
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.stages import number_of_samples

#: What Hugging Face calls it.
ATTENTION_MASK = "attention_mask"
# What they give is (m, heads, T, d).
_BY_HEADS = torch.ops.aten.scaled_dot_product_attention.default, torch.ops.aten.matmul.default


def mask_of(graph: NetworkGraph) -> slice | None:
    """The columns of U that are a mask of the network's own: an input called ``attention_mask``, (m, T), of several."""
    layout = graph.layout
    masks = [spec.name for spec in layout.specs if spec.name == ATTENTION_MASK and len(spec.shape) == 1]
    return layout.columns[ATTENTION_MASK] if masks and len(layout.specs) > 1 else None


@dataclass(frozen=True, eq=False)
class Masks:
    """A mask, batch by batch: true where a token counts."""

    graph: NetworkGraph
    batches: Sequence[Tensor]
    _axis: dict[Node, int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: NetworkGraph, batches: Sequence[Any], mask: Any, size: int) -> Masks | None:
        """From what was given for all samples, or from the network's own mask; None where there is neither.

        False stands for no mask at all. InputError is raised where it has another shape, values other than 0 and 1, or
        leaves nothing.
        """
        if mask is False:
            return None
        if mask is None:
            columns = mask_of(graph)
            kept: Sequence[Tensor] | None = None if columns is None else _Columns(batches, columns)
        else:
            array = torch.from_numpy(as_array("mask", mask).copy())
            m = sum(map(len, batches))
            if array.ndim != 2 or len(array) not in (m, 1):
                raise refused(
                    "mask", f"expected shape (m, T), {m} samples and their positions, got {tuple(array.shape)}"
                )
            if not bool(((array == 0) | (array == 1)).all()):
                raise refused("mask", "expected 1 where a token counts and 0 where it is padding, got other values")
            kept = [part != 0 for part in batches_of(array.expand(m, -1), size)]
        if kept is None:
            return None
        if not any(bool(part.any()) for part in kept):
            raise refused("mask", "it leaves no position of any sample; it is not zero where there are tokens")
        return cls(graph, kept)

    def check_used(self, layers: Sequence[ChannelLayer]) -> None:
        """Refuse a mask that belongs to no layer; InputError also where it may belong to several axes of one."""
        if all(self.kept(use, 0) is None for layer in layers for use in layer.uses):
            tokens = self.batches[0].shape[1]
            raise refused("mask", f"no layer has {tokens} positions beside its samples and columns; give (m, T)")

    def kept(self, use: Use, place: int) -> Tensor | None:
        """Which positions of a use's result count in a batch, as it is laid out, with one channel; None for all."""
        mask = self.batches[place]
        node = use.node if isinstance(use.form, Convolution) else use.source
        chosen = self._chosen(use, node, mask)
        if chosen is None:
            return None
        spread = self._spreads(node, mask)[chosen]
        if isinstance(use.form, Convolution):
            return spread[:, :1]
        return spread[..., :1] if use.form.sliced else use.form.features(spread)[:1, 0].T

    def _chosen(self, use: Use, node: Node, mask: Tensor) -> int | None:
        """Which of the axes that are as long as a mask has the tokens; None where none of them can."""
        if use.node not in self._axis:
            # Each value of its own, so that it shows where it goes.
            probes = self._spreads(node, torch.arange(mask.numel()).reshape(mask.shape))
            able = [number for number, probe in enumerate(probes) if _alike_in_columns(use, probe)]
            # The first one is what has tokens by custom; another may have them, or be of the same length by chance.
            if any(not torch.equal(probes[0], probes[other]) for other in able):
                raise refused(
                    "mask",
                    f"what {use.node.name!r} is applied to has several axes of length {mask.shape[1]}, and it is not "
                    "clear which has the tokens; pad samples to another length, or count all with mask=False",
                )
            self._axis[use.node] = able[0] if able else None
        return self._axis[use.node]

    def _spreads(self, node: Node, mask: Tensor) -> list[Tensor]:
        """The mask in the shape of a node's value, for every axis that is as long as it."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return []
        if node.target in LAYING and (inner := self._spreads(node.all_input_nodes[0], mask)):
            return [laid_out(node, one) for one in inner]
        sizes = [len(mask) if str(size) == self._samples else size for size in value.shape]
        samples = [axis for axis, size in enumerate(value.shape) if str(size) == self._samples]
        if len(samples) != 1 or not all(isinstance(size, int) for size in sizes):
            return []
        return [_along(mask, sizes, samples[0], axis) for axis in self._token_axes(node, mask.shape[1])]

    def _token_axes(self, node: Node, tokens: int) -> list[int]:
        """The axes of a node's value that are as long as a mask; that of the queries alone in an attention."""
        sizes = node.meta["val"].shape
        if node.target in _BY_HEADS and len(sizes) == 4 and sizes[2] == tokens:
            return [len(sizes) - 2]
        return [axis for axis, size in enumerate(sizes) if isinstance(size, int) and size == tokens]

    @property
    def _samples(self) -> str:
        return number_of_samples(self.graph)


class _Columns(Sequence[Tensor]):
    """The mask among the columns of U, batch by batch, out of batches that may be on disk."""

    def __init__(self, batches: Sequence[Tensor], columns: slice) -> None:
        self._batches, self._columns = batches, columns

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: Any) -> Any:
        return self._batches[place][:, self._columns] != 0


def _along(mask: Tensor, sizes: Sequence[int], samples: int, tokens: int) -> Tensor:
    """A mask, (m, T), in a shape with samples and tokens on these axes."""
    shape = [1] * len(sizes)
    shape[samples], shape[tokens] = mask.shape
    return (mask if samples < tokens else mask.T).reshape(shape).expand(list(sizes))


def _alike_in_columns(use: Use, spread: Tensor) -> bool:
    """Whether a mask leaves out all columns of a position or none."""
    if isinstance(use.form, Convolution):
        return bool((spread == spread[:, :1]).all())
    if use.form.sliced:
        return bool((spread == spread[..., :1]).all())
    features = use.form.features(spread)
    return bool((features == features[:1, :1]).all())
