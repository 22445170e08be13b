r"""Intervals of tensors and their arithmetic, rounded outwards.

An interval [l, u] holds every value that a number of a program takes on a box of inputs, in exact arithmetic *and* as
evaluated in a dtype with unit roundoff u: an operation errs by a few u of the size of its result, which is given up at
both ends. Bounds beyond the largest number of the dtype become infinite, and what is not a number becomes
(-∞, ∞), which proves nothing.

Intervals of truth values have l <= u too: l says "certainly", u says "possibly".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: An operation of one number costs so many units in the last place of it, as
#: :data:`~simplicit.implicit.groups.elementwise.EVALUATION_ULPS` says.
ULPS = 16.0


@dataclass(frozen=True, eq=False)
class Interval:
    """Numbers between ``lower`` and ``upper``, two tensors of one shape and dtype: float64, bool or integers."""

    lower: Tensor
    upper: Tensor

    @property
    def largest(self) -> Tensor:
        """A bound on the sizes."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def centred(self) -> tuple[Tensor, Tensor]:
        """A middle and the larger distance from it to an end; NaN where an end is infinite."""
        middle = 0.5 * self.lower + 0.5 * self.upper
        return middle, torch.maximum(self.upper - middle, middle - self.lower)

    @property
    def is_real(self) -> bool:
        """Whether its numbers are in floating point."""
        return self.lower.is_floating_point()

    def moved(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Return ``function`` of both ends, for one that moves numbers or never falls."""
        return Interval(function(self.lower), function(self.upper))


@dataclass(frozen=True)
class Rounding:
    """What evaluation loses: ``unit`` relative to sizes, ``tiny`` below the normal numbers, all beyond ``largest``."""

    unit: float
    tiny: float
    largest: float

    @classmethod
    def of(cls, *dtypes: torch.dtype) -> Rounding:
        """Return that of the coarsest of some dtypes, which are in floating point; float64 is always one."""
        all_of = [torch.finfo(dtype) for dtype in (torch.float64, *dtypes)]
        return cls(
            0.5 * max(one.eps for one in all_of),
            max(1e-200, *(one.tiny for one in all_of)),
            min(one.max for one in all_of),
        )

    def out(self, lower: Tensor, upper: Tensor, size: Tensor | float = 0.0, ulps: Tensor | float = ULPS) -> Interval:
        """Round outwards by ``ulps`` units of the ends and of ``size``, in one shape."""
        lower, upper = _broadcast(lower, upper)
        unit = ulps * self.unit
        tiny = self.tiny * (1.0 + ulps)
        low = lower - self._finite(unit * (lower.abs() + size) + tiny, lower)
        high = upper + self._finite(unit * (upper.abs() + size) + tiny, upper)
        return self.checked(low, high)

    def checked(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return an interval without NaN and beyond nothing that the dtype holds."""
        unknown = torch.isnan(lower) | torch.isnan(upper) | (lower > upper)
        lower, upper = lower.masked_fill(unknown, -math.inf), upper.masked_fill(unknown, math.inf)
        # What overflows may come out as an infinity on that side; masks of -inf stay so on both.
        lower = torch.where(lower < -self.largest, -math.inf, lower)
        upper = torch.where(upper > self.largest, math.inf, upper)
        return Interval(lower, upper)

    @staticmethod
    def _finite(margin: Tensor, end: Tensor) -> Tensor:
        """Return 0 in the place of margins of infinite ends, which only a mask or an overflow has."""
        return torch.where(torch.isinf(end), torch.zeros_like(margin), margin)


def _broadcast(*tensors: Tensor) -> list[Tensor]:
    found: list[Tensor] = [*torch.broadcast_tensors(*tensors)]  # type: ignore[no-untyped-call]
    return found


def real(value: Any, at: Rounding) -> Interval:
    """Return numbers, truth values, tensors and intervals as an interval of real numbers."""
    if isinstance(value, Interval):
        return value if value.is_real else value.moved(lambda end: end.double())
    if isinstance(value, Tensor):
        return Interval(value.double(), value.double())
    number = torch.tensor(float(value), dtype=torch.float64)
    # In float32 a number of the program is rounded first.
    exact = not math.isfinite(float(value)) or float(np.float32(value)) == float(value)
    return Interval(number, number) if exact else at.out(number, number, ulps=1.0)


def negative(x: Interval) -> Interval:
    """Return -x."""
    return Interval(-x.upper, -x.lower)


def add(at: Rounding, x: Interval, y: Interval) -> Interval:
    """Return x + y."""
    return at.out(x.lower + y.lower, x.upper + y.upper, ulps=4.0)


def multiply(at: Rounding, x: Interval, y: Interval) -> Interval:
    """Return x y: the extremes of the four corners."""
    corners = torch.stack(_broadcast(x.lower * y.lower, x.lower * y.upper, x.upper * y.lower, x.upper * y.upper))
    return at.out(corners.amin(dim=0), corners.amax(dim=0), ulps=4.0)


def square(at: Rounding, x: Interval) -> Interval:
    """Return x²."""
    inside = (x.lower <= 0) & (x.upper >= 0)
    ends = x.lower.square(), x.upper.square()
    low = torch.where(inside, torch.zeros_like(x.lower), torch.minimum(*ends))
    found = at.out(low, torch.maximum(*ends), ulps=4.0)
    return Interval(found.lower.clamp(min=0.0), found.upper)


def reciprocal(at: Rounding, x: Interval) -> Interval:
    """Return 1 / x, infinite where x may be 0."""
    through = (x.lower <= 0) & (x.upper >= 0)
    low = torch.where(through, -math.inf, 1.0 / x.upper)
    return at.out(low, torch.where(through, math.inf, 1.0 / x.lower), ulps=4.0)


def divide(at: Rounding, x: Interval, y: Interval) -> Interval:
    """Return x / y, infinite where y may be 0."""
    through = (y.lower <= 0) & (y.upper >= 0)
    corners = torch.stack(_broadcast(x.lower / y.lower, x.lower / y.upper, x.upper / y.lower, x.upper / y.upper))
    low = torch.where(through, -math.inf, corners.amin(dim=0))
    return at.out(low, torch.where(through, math.inf, corners.amax(dim=0)), ulps=4.0)


def hull(*parts: Interval) -> Interval:
    """Return the smallest interval around some."""
    lowers = _broadcast(*(part.lower for part in parts))
    uppers = _broadcast(*(part.upper for part in parts))
    return Interval(torch.stack(lowers).amin(dim=0), torch.stack(uppers).amax(dim=0))


def met(x: Interval, y: Interval) -> Interval:
    """Return what is in both, for two that are sound; the first where they do not meet."""
    lower, upper = torch.maximum(x.lower, y.lower), torch.minimum(x.upper, y.upper)
    apart = lower > upper
    return Interval(torch.where(apart, x.lower, lower), torch.where(apart, x.upper, upper))
