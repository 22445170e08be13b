r"""Interval images of programs: bounds on φ over boxes of z, sound in floating point.

For l <= z <= u the program is evaluated step by step on intervals
(:mod:`~simplicit.implicit.groups.images.rules`), each the image of those before it, rounded outwards. A program that
is elementwise on one operand is evaluated on the pieces of every interval as well: the hull of their images is the
sharper the finer they are, because each number of the program stands for one z only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.implicit.groups.images.elementwise import POINTWISE, TRUTHS
from simplicit.implicit.groups.images.interval import Interval
from simplicit.implicit.groups.images.rules import RULES, run, unbounded
from simplicit.implicit.groups.program import Step

__all__ = ["RULES", "ImageOf"]

# Pieces that intervals of elementwise programs are cut into.
_PIECES = 16
_POINTWISE = frozenset({*POINTWISE, *TRUTHS, "clone", "alias", "_to_copy", "zeros_like", "ones_like", "full_like"})

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ImageOf:
    """The interval image of a program whose result has ``size`` numbers, with what rounding in ``dtype`` does to it."""

    steps: Sequence[Step]
    operands: Sequence[Shape]
    constants: Sequence[Tensor]
    size: int
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds (m, size) on the program for z between two ends (m, a), float64.

        They hold its values in exact arithmetic and those that evaluation in the dtype gives. Where nothing is known
        they are infinite; they are never NaN.
        """
        lower, upper = lower.double(), upper.double()
        bad = ~(lower <= upper)  # NaN, too
        lower, upper = lower.masked_fill(bad, -math.inf), upper.masked_fill(bad, math.inf)
        if len(lower) == 1:  # what was traced for two samples or more may treat a single one in another way
            low, high = self(lower.expand(2, -1), upper.expand(2, -1))
            return low[:1], high[:1]
        return self._in_pieces(lower, upper) if self._is_pointwise() else self._whole(lower, upper)

    def _whole(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        m, widths = len(lower), [math.prod(shape) for shape in self.operands]
        parts = zip(torch.split(lower, widths, 1), torch.split(upper, widths, 1), self.operands, strict=True)
        values = [Interval(a.reshape(m, *shape), b.reshape(m, *shape)) for a, b, shape in parts]
        found = run(self.steps, [*values, *self.constants], m, self.dtype)
        if found is None or found.lower.numel() != m * self.size:
            return unbounded((m, self.size))
        low, high = (end.double().reshape(m, self.size).clone() for end in (found.lower, found.upper))
        unknown = ~(low <= high)
        return low.masked_fill_(unknown, -math.inf), high.masked_fill_(unknown, math.inf)

    def _is_pointwise(self) -> bool:
        """Whether each number of the result depends on the number of z in its place only."""
        single = len(self.operands) == 1 and math.prod(self.operands[0]) == self.size and len(self.steps) > 1
        pointwise = single and all(step.packet in _POINTWISE for step in self.steps)
        return pointwise and all(one.numel() == 1 for one in self.constants)

    def _in_pieces(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hull of the images of pieces that cover every interval; infinite ones stay whole."""
        finite = torch.isfinite(lower) & torch.isfinite(upper)
        cuts = [lower, *(torch.lerp(lower, upper, k / _PIECES) for k in range(1, _PIECES)), upper]
        cuts = [torch.where(finite, torch.minimum(torch.maximum(cut, lower), upper), cut) for cut in cuts]
        lows = torch.cat([torch.where(finite, cut, lower) for cut in cuts[:-1]])
        highs = torch.cat([torch.where(finite, cut, upper) for cut in cuts[1:]])
        low, high = self._whole(lows, torch.maximum(lows, highs))
        shape = (_PIECES, len(lower), self.size)
        return low.reshape(shape).amin(dim=0), high.reshape(shape).amax(dim=0)
