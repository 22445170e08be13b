r"""Boxes of inputs around samples, rounded so that what is proved about them, or found in them, is true.

An attack may only use points that are in the exact box |u' - u| <= ε, so its box (:class:`InnerBox`) is the largest
one of floating-point numbers inside. A certificate must hold for every point of the exact box, so its box
(:class:`OuterBox`) is one around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_interval, as_number
from simplicit.errors import InputError

#: Range of valid inputs, or None for no range.
Clip = tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class PerSample:
    """A record whose tensors have one row for each sample, as have the records of this kind inside it."""

    def part(self, rows: slice | Tensor) -> Self:
        """Return the record of some samples, given by a slice, a mask or their numbers."""
        parts: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                parts[item.name] = value[rows]
            elif isinstance(value, PerSample):
                parts[item.name] = value.part(rows)
        return replace(self, **parts)


@dataclass(frozen=True)
class InnerBox(PerSample):
    """Points between ``lower`` and ``upper`` lie within ε of ``centre`` and in the valid range; all are (m, p)."""

    centre: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, centre: Tensor, eps: float, clip: Clip) -> InnerBox:
        """Return the largest floating-point box that is inside the exact one."""
        radius = torch.tensor(_rounded_down(eps, centre.dtype), dtype=centre.dtype)
        # Rounding may push an edge outwards; two-sum gives its exact error, one step back inwards mends it.
        upper = _sum_rounded_down(centre, radius)
        lower = -_sum_rounded_down(-centre, radius)
        if clip is not None:
            lower, upper = lower.clamp_(min=clip[0]), upper.clamp_(max=clip[1])
        return cls(centre, lower, upper)

    def project_(self, points: Tensor) -> Tensor:
        """Overwrite ``points``, (m, p), with the nearest points in the box and return them."""
        return points.clamp_(self.lower, self.upper)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Draw points uniformly in the box, (m, p)."""
        share = torch.rand(self.centre.shape, generator=generator, dtype=self.centre.dtype)
        return self.project_(torch.lerp(self.lower, self.upper, share))


@dataclass(frozen=True)
class OuterBox(PerSample):
    """All points of the exact box have |u' - centre| <= radius; both are (m, p) float64."""

    centre: Tensor
    radius: Tensor

    @classmethod
    def around(cls, U: Tensor, eps: float, clip: Clip) -> OuterBox:
        """Return a box around |u' - u| <= eps, within ``clip`` if it is given, for U (m, p) in any dtype."""
        U = U.double()
        lower, upper = _down(U - eps), _up(U + eps)
        if clip is not None:
            lower, upper = lower.clamp(min=clip[0]), upper.clamp(max=clip[1])
        centre, radius = centred(lower, upper)
        return cls(centre, _up(radius))

    @property
    def largest(self) -> Tensor:
        """A bound on |u'|, (m, p)."""
        return _up(self.centre.abs() + self.radius)

    def distance(self, U: Tensor) -> Tensor:
        """Return a bound on |u' - u| over points u' of the box, (m, p) float64, for given u."""
        return _up((U - self.centre).abs() + self.radius)


def centred(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middle of an interval and the larger distance from it to an end, entry by entry.

    Halves are added, so that the middle of two numbers near the largest one is no infinity.
    """
    middle = 0.5 * lower + 0.5 * upper
    return middle, torch.maximum(upper - middle, middle - lower)


def as_radii(eps: Any) -> tuple[float, ...]:
    """Return one radius, or a sequence of them, as floats; InputError for none, or one that is no number ≥ 0."""
    several = tuple(eps) if isinstance(eps, list | tuple) or (isinstance(eps, np.ndarray) and eps.ndim == 1) else (eps,)
    if not several:
        raise InputError("eps must be a radius or a sequence of them, got an empty one", argument="eps")
    return tuple(as_number("eps", value) for value in several)


def clipped(inputs: Tensor, clip: Clip, eps: float) -> tuple[Tensor, Clip]:
    """Return ``clip``, rounded towards the inside to the dtype of the inputs (m, p), and a copy of the inputs within.

    Inputs at an end may have been rounded over it by the cast to this dtype; they are brought back. InputError is
    raised where ``clip`` is no interval, is narrower than ``eps``, or does not hold the inputs or any number of their
    dtype. Without a range both come back as they are.
    """
    if clip is None:
        return inputs, None
    low, high = as_interval("clip", clip)
    if eps > high - low:
        raise InputError(f"eps = {eps} is wider than the range of inputs, clip = {clip}", argument="eps")
    smallest, largest = inputs.min().item(), inputs.max().item()
    least, most = torch.tensor((low, high), dtype=inputs.dtype).tolist()
    if smallest < least or largest > most:
        defect = f"got values from {smallest:.6g} to {largest:.6g}; pass the range of the inputs, or clip=None"
        raise InputError(f"U must lie in clip = {clip}, {defect}", argument="U")
    inner = -_rounded_down(-low, inputs.dtype), _rounded_down(high, inputs.dtype)
    if inner[0] > inner[1]:
        raise InputError(f"clip = {clip} holds no number in {inputs.dtype}; pass a wider one", argument="clip")
    return inputs.clamp(*inner), inner


def _rounded_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of ``dtype`` that is at most ``value``."""
    nearest = torch.tensor(value, dtype=dtype)
    return (_down(nearest) if nearest.item() > value else nearest).item()


def _sum_rounded_down(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, rounded towards minus infinity."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return torch.where(error < 0, _down(total), total)


def _up(values: Tensor) -> Tensor:
    return torch.nextafter(values, values.new_tensor(math.inf))


def _down(values: Tensor) -> Tensor:
    return torch.nextafter(values, values.new_tensor(-math.inf))
