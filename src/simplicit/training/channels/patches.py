r"""The patches of a convolution as the columns of a matrix, a few samples at a time.

For an input x (m, C, *S) and a kernel of size (k₁, …) with stride, padding and dilation, the patch at an output
position is what the kernel sees there. R (groups, C/groups·∏k, m·positions) holds one patch a column, with rows in the
order of ``weight.flatten(1)``, so that z = W R. Only a view of the padded input is made and then copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Geometry:
    """How a kernel is laid over its input; one number, or zeros before and after, for each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> Self:
        """From the arguments of a convolution, where one number may stand for all dimensions."""
        k = len(kernel)
        stride, dilation = each(stride, k), each(dilation, k)
        if padding == "valid":
            padding = 0
        if padding == "same":
            totals = [d * (size - 1) for d, size in zip(dilation, kernel, strict=True)]
            pairs = tuple((total // 2, total - total // 2) for total in totals)
        else:
            pairs = tuple((p, p) for p in each(padding, k))
        return cls(tuple(kernel), stride, pairs, dilation, int(groups))

    def positions(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The size of the output for an input of this size."""
        return tuple(
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, d, k, s in zip(spatial, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        )


def each(value: Any, count: int) -> tuple[int, ...]:
    """One number for each dimension, or the same for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def patches(x: Tensor, geometry: Geometry | None) -> Tensor:
    """R (groups, d, m·positions) of an input x (m, C, *S); of a linear layer's input (m, …, d): (1, d, m·…)."""
    if geometry is None:
        return x.reshape(-1, x.shape[-1]).T.unsqueeze(0)
    m, channels, *spatial = x.shape
    padded = functional.pad(x, [zeros for pair in reversed(geometry.padding) for zeros in pair])
    out = geometry.positions(spatial)
    sample, channel, *steps = padded.contiguous().stride()
    view = padded.contiguous().as_strided(
        (channels, *geometry.kernel, m, *out),
        (
            channel,
            *(step * d for step, d in zip(steps, geometry.dilation, strict=True)),
            sample,
            *(step * s for step, s in zip(steps, geometry.stride, strict=True)),
        ),
    )
    columns = m * torch.Size(out).numel()
    return view.reshape(geometry.groups, -1, columns)


def channels_first(z: Tensor, geometry: Geometry | None) -> Tensor:
    """The result of a layer as (groups, rows of a group, m·positions), columns in the order of :func:`patches`."""
    if geometry is None:
        return z.reshape(-1, z.shape[-1]).T.unsqueeze(0)
    return z.transpose(0, 1).reshape(geometry.groups, z.shape[1] // geometry.groups, -1)
