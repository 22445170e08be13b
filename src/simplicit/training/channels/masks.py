r"""Which positions count: padding that fills sentences up to one length is left out of all sums.

A mask has one value for each token of each sample, (m, T), and leaves out what is zero. A layer's result may have its
tokens on any axis, or on one axis with the samples: its positions are followed back through views and transposes to
where both have axes of their own. Where they have none (the first token alone, pooled values) all positions count.
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
from simplicit.training.channels.layers import Use
from simplicit.training.channels.walk import batches_of

#: What Hugging Face calls it.
ATTENTION_MASK = "attention_mask"
_BY_HEADS = torch.ops.aten.scaled_dot_product_attention.default


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
    _known: dict[tuple[Node, int], Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: NetworkGraph, batches: list[Any], mask: Any, size: int) -> Masks | None:
        """From what was given for all samples, or from the network's own mask; None where there is neither.

        InputError is raised where it has another shape, or leaves nothing.
        """
        if mask is None:
            columns = mask_of(graph)
            found = None if columns is None else [batch[:, columns] for batch in batches]
        else:
            array = torch.from_numpy(as_array("mask", mask).copy())
            m = sum(map(len, batches))
            if array.ndim != 2 or len(array) not in (m, 1):
                raise refused(
                    "mask", f"expected shape (m, T), {m} samples and their positions, got {tuple(array.shape)}"
                )
            found = batches_of(array, size)
        if found is None:
            return None
        kept = [part != 0 for part in found]
        if not any(bool(part.any()) for part in kept):
            raise refused("mask", "it leaves no position of any sample; it is not zero where there are tokens")
        return cls(graph, kept)

    def kept(self, use: Use, place: int) -> Tensor | None:
        """Which positions of a use's result count in a batch, as it is laid out, with one channel; None for all."""
        key = (use.node, place)
        if key not in self._known:
            self._known[key] = self._kept(use, self.batches[place])
        return self._known[key]

    def _kept(self, use: Use, mask: Tensor) -> Tensor | None:
        node = use.node if isinstance(use.form, Convolution) else use.source
        spread = self._spread(node, mask)
        if spread is None:
            return None
        if isinstance(use.form, Convolution):
            return spread[:, :1]
        features = use.form.features(spread)
        return spread[..., :1] if use.form.sliced else features[:1, 0].T

    def _spread(self, node: Node, mask: Tensor) -> Tensor | None:
        """The mask in the shape of a node's value."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return None
        if (axes := self._axes(node, mask.shape[1])) is not None:
            samples, tokens = axes
            shape = [1] * value.ndim
            shape[samples], shape[tokens] = mask.shape
            laid = mask if samples < tokens else mask.T
            sizes = [len(mask) if axis == samples else size for axis, size in enumerate(value.shape)]
            return laid.reshape(shape).expand(sizes)
        before = node.all_input_nodes[0] if node.target in LAYING else None
        inner = None if before is None else self._spread(before, mask)
        return None if inner is None else laid_out(node, inner)

    def _axes(self, node: Node, tokens: int) -> tuple[int, int] | None:
        """The axes of samples and tokens in a node's value, where both have their own."""
        sizes = node.meta["val"].shape
        samples = [axis for axis, size in enumerate(sizes) if str(size) == self._samples]
        rest = [axis for axis, size in enumerate(sizes) if axis not in samples]
        if len(samples) != 1 or any(not isinstance(sizes[axis], int) for axis in rest):
            return None
        order = [len(sizes) - 2, *rest] if node.target is _BY_HEADS else rest
        own = next((axis for axis in order if sizes[axis] == tokens), None)
        return None if own is None else (samples[0], own)

    @property
    def _samples(self) -> str:
        """The number of samples, as the graph writes it."""
        inputs = self.graph.module.graph.find_nodes(op="placeholder")
        own = next(node for node in inputs if node.name not in self.graph.constants)
        return str(own.meta["val"].shape[0])
