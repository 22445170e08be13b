r"""How far the value of a program moves where z moves, over a box of z: constants of blocks that have none on all of R.

Let ranges hold every value of a program for z in a box, and let two points of it differ by at most d >= 0, number by
number. Then the values at both differ by at most, for a product,

    |a b - a' b'| <= max|a| d_b + max|b| d_a,

for a sum d_a + d_b, for an operation with a Lipschitz constant L in ‖·‖∞ at most L max d, and so on from step to step.
All of it is linear in d: the numbers that unit vectors give are a matrix G >= 0 with |φ(z) - φ(z')| <= G |z - z'| over
the box, and its largest row sum is a Lipschitz constant there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups import lipschitz
from simplicit.implicit.groups.images.interval import Interval
from simplicit.implicit.groups.images.rules import run
from simplicit.implicit.groups.program import GETITEM, Step, Value, operation, resolved

# Unit vectors whose deviations are found at a time.
_TOGETHER = 64
Shape = tuple[int, ...]


def coupling(
    steps: Sequence[Step], operands: Sequence[Shape], constants: Sequence[Tensor], box: tuple[Tensor, Tensor]
) -> Tensor:
    """Return G, (b, a) float64, of a program over a box of z, two tensors (a,); infinite where nothing is known."""
    parts, unit = [], torch.eye(len(box[0]), dtype=torch.float64)
    for first in range(0, len(unit), _TOGETHER):
        rows = unit[first : first + _TOGETHER]
        m = max(2, len(rows))  # what was traced for two samples or more may treat a single one in another way
        parts.append(_deviated(steps, operands, constants, box, torch.cat([rows, rows])[:m], 0.0)[: len(rows)])
    return torch.cat(parts).T.contiguous()


def rounding(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    box: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> float:
    """Return how far a program, evaluated in ``dtype``, may be from exact over a box of z."""
    still = torch.zeros(2, len(box[0]), dtype=torch.float64)
    unit = 0.5 * torch.finfo(dtype).eps
    return float(_deviated(steps, operands, constants, box, still, unit).max())


def _deviated(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    box: tuple[Tensor, Tensor],
    deviation: Tensor,
    unit: float,
) -> Tensor:
    """Return what ``deviation`` (m, a) of z makes of the result, (m, b), each step erring by units of what it sees."""
    m, widths = len(deviation), [math.prod(shape) for shape in operands]

    def shaped(values: Tensor) -> list[Tensor]:
        parts = torch.split(values, widths, dim=1)
        return [part.reshape(m, *shape) for part, shape in zip(parts, operands, strict=True)]

    ends = [shaped(end.double().expand(m, -1)) for end in box]
    ranges: list[Any] = [*(Interval(low, high) for low, high in zip(*ends, strict=True)), *constants]
    with torch.no_grad():
        found = run(steps, ranges, m, torch.float64)
        size = 0 if found is None else found.lower.numel() // m
        moved: list[Any] = [*shaped(deviation), *(0.0 for _ in constants)]
        for number, step in enumerate(steps, len(moved)):
            moved.append(_after(step, ranges, moved, m, number, unit))
    last = moved[-1] if isinstance(moved[-1], Tensor) else torch.full((m, max(size, 1)), float(_largest(moved[-1])))
    return last.double().reshape(m, -1).nan_to_num(nan=math.inf, posinf=math.inf)


def _after(step: Step, ranges: Sequence[Any], moved: Sequence[Any], m: int, number: int, unit: float) -> Any:
    """Return the deviation of one step's value."""
    read = [one.number for one in lipschitz.values_of((step.arguments, [value for _, value in step.keywords]))]
    error = 0.0
    if unit:  # as many units as sums have terms
        sizes = [_largest(ranges[one]) for one in (*read, number)]
        terms = 64.0 + 2.0 * max(_count(ranges[one]) for one in (*read, number))
        error = terms * unit * (1.0 + sum(sizes))
    if not error and all(_is_still(moved[one]) for one in read):
        return 0.0
    try:
        found = _spread(step, ranges, moved, m, number)
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError):
        found = math.inf  # arguments that the rule does not know
    return [one + error for one in found] if isinstance(found, list) else found + error


def _spread(step: Step, ranges: Sequence[Any], moved: Sequence[Any], m: int, number: int) -> Any:
    packet = step.packet
    if packet == GETITEM:
        return moved[step.arguments[0].number][step.arguments[1]]
    if packet in lipschitz.MOVING or packet in _SUMS:
        whole = [_full(one, deviation) for one, deviation in zip(ranges, moved, strict=False)]
        arguments = [resolved(one, whole, m, torch.float64) for one in step.arguments]
        keywords = {name: resolved(one, whole, m, torch.float64) for name, one in step.keywords}
        found = operation(step.operation)(*arguments, **keywords)
        return [*found] if isinstance(found, tuple | list) else found
    if packet in RULES:
        pairs = [_pair(one, ranges, moved) for one in step.arguments]
        return RULES[packet](*pairs, **{name: _pair(one, ranges, moved) for name, one in step.keywords})
    factor, size = lipschitz.after(step, [1.0]), _size_of(ranges[number])
    parts = [moved[one.number] for one in lipschitz.values_of(step.arguments)]
    if size is None or any(isinstance(part, list) for part in parts):
        return math.inf
    if packet in lipschitz.POINTWISE and len(parts) == 1 and isinstance(parts[0], Tensor):
        return _times(factor, parts[0])
    each = [part.reshape(m, -1).amax(dim=1) for part in parts if isinstance(part, Tensor)]
    largest = torch.stack(each or [torch.zeros(m, dtype=torch.float64)]).amax(dim=0)
    return _times(factor, largest.reshape(m, *(1 for _ in size[1:])).expand(size))


_SUMS = frozenset(["sum", "mean"])
_Pair = tuple[Any, Any]


def _pair(argument: Any, ranges: Sequence[Any], moved: Sequence[Any]) -> _Pair:
    """Return the largest size of an argument, and how far it moves."""
    if isinstance(argument, Value):
        value = ranges[argument.number]
        return (value.largest if isinstance(value, Interval) else value.double().abs()), moved[argument.number]
    return abs(float(argument)), 0.0


def _times(size: Any, deviation: Any) -> Any:
    """Return a product in which what does not move counts nothing, however large its partner may be."""
    if isinstance(deviation, Tensor):
        return torch.where(deviation > 0, size * deviation, 0.0)
    return size * deviation if deviation else 0.0


def _added(a: _Pair, b: _Pair, alpha: _Pair = (1.0, 0.0)) -> Any:
    return a[1] + alpha[0] * b[1]


def _multiplied(a: _Pair, b: _Pair) -> Any:
    return _times(a[0], b[1]) + _times(b[0], a[1])


def _contracted(a: _Pair, b: _Pair) -> Any:
    pairs = ((a[0], b[1]), (a[1], b[0]))
    return sum(one @ other for one, other in pairs if isinstance(one, Tensor) and isinstance(other, Tensor))


#: One entry for each operation of several values, from pairs of the largest size and the deviation of each.
RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "sub", "rsub"), _added),
    "neg": lambda a: a[1],
    "mul": _multiplied,
    "square": lambda a: _times(2.0 * a[0], a[1]),
    "addcmul": lambda x, y, z, value=(1.0, 0.0): x[1] + value[0] * _multiplied(y, z),
    **dict.fromkeys(("matmul", "bmm", "mm"), _contracted),
}


def _full(value: Any, deviation: Any) -> Any:
    """Return a deviation in the shape of its value."""
    if isinstance(deviation, list):
        parts = value if isinstance(value, list) else [value] * len(deviation)
        return [_full(one, part) for one, part in zip(parts, deviation, strict=True)]
    size = _size_of(value)
    if isinstance(deviation, Tensor) or size is None:
        return deviation
    return torch.full(size, float(deviation), dtype=torch.float64)


def _size_of(value: Any) -> torch.Size | None:
    if isinstance(value, Interval):
        return value.lower.shape
    return value.shape if isinstance(value, Tensor) else None


def _is_still(deviation: Any) -> bool:
    if isinstance(deviation, list):
        return all(map(_is_still, deviation))
    return not bool(deviation.any()) if isinstance(deviation, Tensor) else deviation == 0.0


def _largest(value: Any) -> float:
    """Return the largest size of numbers, of their intervals, or of several; infinite where nothing is known."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0.0)
    if isinstance(value, Interval):
        value = value.largest
    if isinstance(value, Tensor):
        return float(value.double().abs().max()) if value.numel() else 0.0
    return abs(float(value)) if isinstance(value, int | float) else math.inf


def _count(value: Any) -> int:
    if isinstance(value, list | tuple):
        return max(map(_count, value), default=1)
    size = _size_of(value)
    return 1 if size is None else max(1, size[1:].numel())
