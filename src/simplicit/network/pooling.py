r"""Maxima over windows, written with ReLU: max(a, b) = a + ReLU(b − a), in a tree.

A maximum over a window of several dimensions is taken dimension by dimension, which needs fewer states than a tree over
the whole window (1.5 instead of 2 per pixel for 3 × 3 windows of stride 2). Places of a window that lie in the padding
are replaced by another of its own places, which leaves the maximum as it is.

Where a network reads the indices of the maxima, as unpooling does, they come from torch's own operation, which an
operation of our library stands for beside the maxima (:data:`INDICES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Numbers = int | Sequence[int]

_aten = torch.ops.aten


def _larger(first: Tensor, second: Tensor) -> Tensor:
    return first + torch.relu(second - first)


def _tree(parts: Sequence[Tensor]) -> Tensor:
    """The maximum of tensors of one shape, by a tree."""
    level = list(parts)
    while len(level) > 1:
        pairs = [_larger(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


def _over_windows(x: Tensor, dim: int, windows: Sequence[Sequence[int]]) -> Tensor:
    """The maximum over windows along a dimension, each given by its places."""
    longest = max(map(len, windows))
    taps = [[window[min(t, len(window) - 1)] for window in windows] for t in range(longest)]
    return _tree([_picked(x, dim, tap) for tap in taps])


def _picked(x: Tensor, dim: int, places: Sequence[int]) -> Tensor:
    """Pick places along a dimension, by slices, since a traced graph has no tensor of numbers to index with."""
    runs: list[list[int]] = []
    for place in places:
        run = runs[-1] if runs else []
        if run and place > run[-1] and (len(run) == 1 or place - run[-1] == run[1] - run[0]):
            run.append(place)
        else:
            runs.append([place])
    slices = [_aten.slice(x, dim, run[0], run[-1] + 1, run[1] - run[0] if len(run) > 1 else 1) for run in runs]
    return torch.cat(slices, dim) if len(slices) > 1 else slices[0]


def max_pool(rank: int) -> Callable[..., Tensor]:
    """max_pool1d, 2d or 3d, written with ReLU."""

    def pooled(
        self: Tensor,
        kernel_size: Numbers,
        stride: Numbers = (),
        padding: Numbers = 0,
        dilation: Numbers = 1,
        ceil_mode: bool = False,
    ) -> Tensor:
        kernels = each(kernel_size, rank)
        geometry = (kernels, each(stride, rank) or kernels, each(padding, rank), each(dilation, rank))
        for dim, (k, s, p, d) in enumerate(zip(*geometry, strict=True), start=self.dim() - rank):
            self = _over_windows(self, dim, _windows(self.shape[dim], k, s, p, d, ceil_mode))
        return self

    return pooled


def max_pool_with_indices(rank: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """The forms that also say where the maxima are."""

    def pooled(self: Tensor, *args: Numbers, **kwargs: Numbers) -> tuple[Tensor, Tensor]:
        return max_pool(rank)(self, *args, **kwargs), _STAND_INS[f"max_pool{rank}d"](self, *args, **kwargs)

    return pooled


def _windows(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> list[list[int]]:
    """The places in the input of each window, as torch lays them."""
    span = n + 2 * p - d * (k - 1) - 1
    count = (math.ceil(span / s) if ceil_mode else span // s) + 1
    if ceil_mode and (count - 1) * s >= n + p:
        count -= 1  # the last window must start inside of the input or of the padding before it
    windows = [[o * s - p + d * t for t in range(k)] for o in range(count)]
    return [[place for place in window if 0 <= place < n] for window in windows]


def adaptive_max_pool(rank: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """adaptive_max_pool1d, 2d or 3d, with indices as in :func:`max_pool_with_indices`."""

    def pooled(self: Tensor, output_size: Numbers) -> tuple[Tensor, Tensor]:
        return _adaptive(rank)(self, output_size), _STAND_INS[f"adaptive_max_pool{rank}d"](self, output_size)

    return pooled


def _adaptive(rank: int) -> Callable[..., Tensor]:
    """The maxima alone of :func:`adaptive_max_pool`."""

    def maxima(self: Tensor, output_size: Numbers) -> Tensor:
        for dim, out in enumerate(each(output_size, rank), start=self.dim() - rank):
            n = self.shape[dim]
            windows = [list(range(i * n // out, math.ceil((i + 1) * n / out))) for i in range(out)]
            self = _over_windows(self, dim, windows)
        return self

    return maxima


def extremum(sign: int) -> Callable[..., Any]:
    """Return amax (``sign`` 1) or amin (-1) over dimensions of features."""

    def reduced_over(self: Tensor, dim: Numbers = (), keepdim: bool = False) -> Any:
        dims = [dim] if isinstance(dim, int) else list(dim)
        axes = sorted({d % self.dim() for d in dims} or range(self.dim()))
        if 0 in axes or not self.is_floating_point():
            return NotImplemented
        value = self if sign > 0 else -self
        for axis in axes:
            value = _halved(value, axis)
        value = value if keepdim else _aten.squeeze(value, axes)
        return value if sign > 0 else -value

    return reduced_over


def _halved(x: Tensor, axis: int) -> Tensor:
    """Return the maximum along an axis, one half against the other until a single place is left."""
    while (length := x.shape[axis]) > 1:
        half = length // 2
        larger = _larger(_aten.slice(x, axis, 0, half), _aten.slice(x, axis, half, 2 * half))
        x = torch.cat([larger, _aten.slice(x, axis, 2 * half, length)], axis) if length % 2 else larger
    return x


def max_along(sign: int) -> Callable[..., Any]:
    """Return torch.max (``sign`` 1) or torch.min (-1) along a dimension of features, with indices as above."""

    def along(self: Tensor, dim: int, keepdim: bool = False) -> Any:
        value = extremum(sign)(self, [dim], keepdim)
        place = torch.argmax if sign > 0 else torch.argmin
        return NotImplemented if value is NotImplemented else (value, place(self, dim, keepdim))

    return along


def each(number: Numbers, rank: int) -> tuple[int, ...]:
    """One number per dimension; none for none."""
    numbers = (number,) if isinstance(number, int) else tuple(number)
    return numbers * rank if len(numbers) == 1 else numbers


def _maxima(name: str) -> Callable[..., Tensor]:
    """The rewritten form of a pooling by its name."""
    rank = int(name[-2])
    return _adaptive(rank) if name.startswith("adaptive") else max_pool(rank)


_LIBRARY: Any = torch.library.Library("simplicit", "FRAGMENT")  # type: ignore[no-untyped-call]
_POOLINGS = [f"{kind}max_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3)]
_WITH_INDICES = {
    name: getattr(_aten, name if name.startswith("adaptive") else f"{name}_with_indices").default for name in _POOLINGS
}


def _stand_in(name: str, operation: Any) -> Any:
    """The operation of our library that gives the indices alone of one of torch's."""
    schema = str(operation._schema)
    indices = f"{name}_indices"
    _LIBRARY.define(indices + schema[schema.index("(") : schema.index("->")] + "-> Tensor")

    def places(*args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = operation(*args, **kwargs)[1]
        return found

    def shaped_alike(*args: Any, **kwargs: Any) -> Tensor:
        # Not by torch's operation: those of one dimension are rewritten while a graph is made.
        return torch.empty_like(_maxima(name)(*args, **kwargs), dtype=torch.int64)

    torch.library.register_fake(f"simplicit::{indices}", shaped_alike, lib=_LIBRARY)
    _LIBRARY.impl(indices, places, "CompositeExplicitAutograd")
    return getattr(torch.ops.simplicit, indices).default


_STAND_INS = {name: _stand_in(name, operation) for name, operation in _WITH_INDICES.items()}
#: torch's own operation, whose second result they are, by what stands for the indices of its maxima.
INDICES: dict[Any, Any] = {stand_in: _WITH_INDICES[name] for name, stand_in in _STAND_INS.items()}
