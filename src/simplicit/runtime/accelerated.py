"""A network with formats, as a module: it takes small batches as they come, and large ones in tiles by all threads."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from simplicit.machine import side_by_side
from simplicit.runtime.formats.choosing import LayerFormat


@dataclass(frozen=True)
class Whole:
    """The network as a whole at a batch size.

    Attributes
    ----------
    batch : int
    ratio : float
        How many times faster than the dense network it was measured; 1 where it is dense.
    tile : int or None
        The samples that one thread takes through the network at a time; None for all at once.
    """

    batch: int
    ratio: float
    tile: int | None = None


@dataclass(frozen=True)
class FormatTable:
    """What every layer has, at every batch size that was asked for; its text is a table.

    Attributes
    ----------
    layers : tuple of LayerFormat
    network : tuple of Whole
        In the order of their batch sizes.
    """

    layers: tuple[LayerFormat, ...]
    network: tuple[Whole, ...]

    def __str__(self) -> str:
        width = max([5, *(len(layer.layer) for layer in self.layers)])
        lines = []
        for whole in self.network:
            tiles = "" if whole.tile is None else f", in tiles of {whole.tile}"
            lines.append(f"batch {whole.batch:,}: {whole.ratio:.2f} x dense torch{tiles}")
            lines.append(f"  {'layer':<{width}}{'weights':>14}{'non-zeros':>12}  {'format':<7}{'alone':>8}")
            lines += [_line(layer, width) for layer in self.layers if layer.batch == whole.batch]
        return "\n".join(lines)

    __repr__ = __str__


def _line(layer: LayerFormat, width: int) -> str:
    rows, columns = layer.shape
    weights, ratio = f"{rows:,} x {columns:,}", f"{layer.ratio:.2f} x"
    line = f"  {layer.layer:<{width}}{weights:>14}{layer.non_zeros:>12,}  {layer.format:<7}{ratio:>8}"
    return f"{line}  {layer.note}".rstrip()


class Accelerated(nn.Module):
    """A network whose layers have formats, made by :func:`simplicit.accelerate`.

    It is called as the network was, with any number of samples. Its weights are buffers: gradients go to inputs, not to
    them. Where a tile belongs to the number of samples, no gradient is asked for and all tensors of the call have the
    samples first, the network sees a few samples at a time, which is the same for a network that treats each alone.
    Under autocast, and where it is moved to half precision on a CPU, its layers multiply by their weights written out.

    Attributes
    ----------
    network : nn.Module
        The network with its layers replaced.
    """

    def __init__(self, network: nn.Module, table: FormatTable) -> None:
        super().__init__()
        self.network, self._table = network.requires_grad_(False), table
        self._bounds = [sqrt(a.batch * b.batch) for a, b in pairwise(table.network)]
        self.eval()

    def formats(self) -> FormatTable:
        """Return which format every layer has, with its non-zeros and the measured ratio; ``print`` shows a table."""
        return self._table

    def forward(self, *in_order: Any, **by_name: Any) -> Any:
        """Return what the network returns."""
        samples = _samples(in_order, by_name)
        tile = None if samples is None else self._table.network[bisect(self._bounds, samples)].tile
        if samples is None or tile is None or samples <= tile or _is_watched(in_order, by_name):
            return self.network(*in_order, **by_name)
        return in_tiles(self.network, in_order, by_name, samples, tile)


def in_tiles(
    network: nn.Module, in_order: tuple[Any, ...], by_name: Mapping[str, Any], samples: int, tile: int
) -> Tensor:
    """What a network of one tensor returns, (samples, ...), computed for ``tile`` samples at a time by all threads."""
    inference, threads = torch.is_inference_mode_enabled(), torch.get_num_threads()

    def of(start: int) -> Tensor:
        def cut(value: Any) -> Any:
            return value[start : start + tile] if isinstance(value, Tensor) else value

        # Modes belong to threads.
        with torch.inference_mode(inference), torch.no_grad():
            found: Tensor = network(*map(cut, in_order), **{name: cut(value) for name, value in by_name.items()})
        return found

    starts = range(0, samples, tile)
    if threads == 1:
        return torch.cat([of(start) for start in starts])
    try:
        return torch.cat([*side_by_side(of, starts, threads)])
    finally:
        torch.set_num_threads(threads)  # of threads that are begun later: theirs was set to one by the last of these


def _samples(in_order: tuple[Any, ...], by_name: Mapping[str, Any]) -> int | None:
    """The common length of all tensors of a call; None where they have none."""
    tensors = [value for value in (*in_order, *by_name.values()) if isinstance(value, Tensor)]
    lengths = {len(tensor) if tensor.ndim else -1 for tensor in tensors}
    length = lengths.pop() if len(lengths) == 1 else -1
    return None if length < 0 else length


def _is_watched(in_order: tuple[Any, ...], by_name: Mapping[str, Any]) -> bool:
    """Whether something happens to a call beside its outputs: gradients, or another precision."""
    values = (*in_order, *by_name.values())
    differentiated = any(isinstance(value, Tensor) and value.requires_grad for value in values)
    return (torch.is_grad_enabled() and differentiated) or torch.is_autocast_enabled("cpu")
