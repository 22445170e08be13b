r"""Interval images of programs: bounds on φ over boxes of z, sound in floating point.

For l <= z <= u the program is evaluated step by step on intervals
(:mod:`~simplicit.implicit.groups.images.rules`), each the image of those before it, rounded outwards. A program that
is elementwise on one operand is evaluated on the pieces of every interval as well: the hull of their images is the
sharper the finer they are, because each number of the program stands for one z only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from simplicit.implicit.groups.images.elementwise import POINTWISE, TRUTHS
from simplicit.implicit.groups.images.interval import Interval
from simplicit.implicit.groups.images.rules import RULES, run, unbounded
from simplicit.implicit.groups.program import Step

__all__ = ["RULES", "image"]

# Pieces that intervals of elementwise programs are cut into.
_PIECES = 16
_POINTWISE = frozenset({*POINTWISE, *TRUTHS, "clone", "alias", "_to_copy", "zeros_like", "ones_like", "full_like"})

Shape = tuple[int, ...]


@torch.no_grad()
def image(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    size: int,
    ends: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return bounds (m, ``size``) on a program for z between two ``ends`` (m, a), float64.

    They hold its values in exact arithmetic and those that evaluation in ``dtype`` gives. Where nothing is known they
    are infinite; they are never NaN.
    """
    lower, upper = ends[0].double(), ends[1].double()
    bad = ~(lower <= upper)  # NaN, too
    lower, upper = lower.masked_fill(bad, -math.inf), upper.masked_fill(bad, math.inf)
    m = len(lower)
    if m == 1:  # what was traced for two samples or more may treat a single one in another way
        low, high = image(steps, operands, constants, size, (lower.expand(2, -1), upper.expand(2, -1)), dtype)
        return low[:1], high[:1]
    if _is_pointwise(steps, operands, constants, size):
        return _in_pieces(steps, operands, constants, size, (lower, upper), dtype)
    return _whole(steps, operands, constants, size, (lower, upper), dtype)


def _whole(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    size: int,
    ends: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    m = len(ends[0])
    parts = [torch.split(end, [math.prod(shape) for shape in operands], dim=1) for end in ends]
    values = [Interval(a.reshape(m, *s), b.reshape(m, *s)) for a, b, s in zip(*parts, operands, strict=True)]
    found = run(steps, [*values, *constants], m, dtype)
    if found is None or found.lower.numel() != m * size:
        return unbounded((m, size))
    lower, upper = (end.double().reshape(m, size).clone() for end in (found.lower, found.upper))
    unknown = ~(lower <= upper)
    return lower.masked_fill_(unknown, -math.inf), upper.masked_fill_(unknown, math.inf)


def _is_pointwise(steps: Sequence[Step], operands: Sequence[Shape], constants: Sequence[Tensor], size: int) -> bool:
    """Whether each number of the result depends on the number of z in its place only."""
    single = len(operands) == 1 and math.prod(operands[0]) == size and len(steps) > 1
    return single and all(one.numel() == 1 for one in constants) and all(step.packet in _POINTWISE for step in steps)


def _in_pieces(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    size: int,
    ends: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the hull of the images of pieces that cover every interval; infinite ones stay whole."""
    lower, upper = ends
    finite = torch.isfinite(lower) & torch.isfinite(upper)
    cuts = [lower, *(torch.lerp(lower, upper, k / _PIECES) for k in range(1, _PIECES)), upper]
    cuts = [torch.where(finite, torch.minimum(torch.maximum(cut, lower), upper), cut) for cut in cuts]
    lows = torch.cat([torch.where(finite, cut, lower) for cut in cuts[:-1]])
    highs = torch.cat([torch.where(finite, cut, upper) for cut in cuts[1:]])
    low, high = _whole(steps, operands, constants, size, (lows, torch.maximum(lows, highs)), dtype)
    shape = (_PIECES, len(lower), size)
    return low.reshape(shape).amin(dim=0), high.reshape(shape).amax(dim=0)
