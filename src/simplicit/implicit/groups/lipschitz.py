r"""Lipschitz constants of programs in ‖·‖∞, from the constants of their operations.

A value of a program is an L-Lipschitz function of z in ‖·‖∞. A softmax multiplies L by 1/2, since the rows of its
Jacobian sum to 2pᵢ(1 − pᵢ) in size; whatever only moves numbers leaves L; a sum adds the L of its parts. Products of
two values and norms have no constant on all of R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.program import Kind, Step, Value

_MOVING_NAMES = """
    _to_copy _unsafe_view alias cat channel_shuffle chunk clone concat concatenate detach diagonal expand expand_as
    flatten flip getitem hstack movedim narrow permute pixel_shuffle pixel_unshuffle repeat reshape roll select
    slice split split_with_sizes squeeze stack swapaxes t tile to transpose unbind unflatten unsafe_chunk
    unsafe_split unsqueeze view view_as vstack
"""
#: Operations that only move numbers.
MOVING = frozenset(_MOVING_NAMES.split())
_NON_EXPANSIVE = """
    abs amax amin atan avg_pool1d avg_pool2d avg_pool3d cos hardtanh log_sigmoid max_pool1d max_pool2d max_pool3d
    maximum minimum neg relu relu6 sin softplus softshrink tanh
"""
_FACTORS = {
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), 0.5),
    # A row of the Jacobian, e_i - p, has sizes that sum to 2(1 - p_i).
    **dict.fromkeys(("log_softmax", "_log_softmax"), 2.0),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), 0.25),
    **dict.fromkeys(_NON_EXPANSIVE.split(), 1.0),
}
#: Operations that act on each number by itself, one of them varying.
_POINTWISE_NAMES = """
    abs add atan cos div hardsigmoid hardtanh log_sigmoid mul neg relu relu6 rsub sigmoid sin softplus softshrink sub
    tanh
"""
POINTWISE = frozenset(_POINTWISE_NAMES.split())


def is_pointwise(steps: Sequence[Step]) -> bool:
    """Whether a program of one operand and no constants acts on each number by itself."""
    return all(step.packet in POINTWISE for step in steps)


def constant(steps: Sequence[Step], operands: int, constants: int) -> float:
    """Return a Lipschitz constant of a program in its operands; infinite where none is known."""
    found = [1.0] * operands + [0.0] * constants
    for step in steps:
        parts = [found[one.number] for one in values_of((step.arguments, [value for _, value in step.keywords]))]
        found.append(after(step, parts))
    return found[-1]


def rounding(steps: Sequence[Step], at_zero: Sequence[Any], operands: int, size: float, unit: float) -> float:
    """Return how far a program, evaluated with a unit roundoff, may be from exact for |z| <= ``size``.

    ``at_zero`` holds all its values at z = 0, from which the others are no further than their Lipschitz constants say.
    A step errs by units in the last place of what it reads and of what it gives, as many as it sums terms. Infinite
    where a constant is not known.
    """
    constants = len(at_zero) - len(steps) - operands
    slopes, errors = [1.0] * operands + [0.0] * constants, [0.0] * (operands + constants)
    for number, step in enumerate(steps, operands + constants):
        read = [one.number for one in values_of((step.arguments, [value for _, value in step.keywords]))]
        slopes.append(after(step, [slopes[one] for one in read]))
        sizes = [_size(at_zero[one]) + slopes[one] * size for one in (*read, number)]
        terms = 64.0 + 2.0 * max(_count(at_zero[one]) for one in (*read, number))
        errors.append(after(step, [errors[one] for one in read]) + terms * unit * (1.0 + sum(sizes)))
    return errors[-1] if math.isfinite(slopes[-1]) else math.inf


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, tuple | list):
        return [one for part in value for one in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def _size(value: Any) -> float:
    """Return the largest size of the finite numbers of a value: infinite ones are masks."""
    finite = [one.double()[torch.isfinite(one.double())].abs() for one in _tensors(value)]
    return max((float(one.max()) for one in finite if one.numel()), default=0.0)


def _count(value: Any) -> int:
    return max((one.numel() for one in _tensors(value)), default=1)


def values_of(argument: Any) -> list[Value]:
    """Return the values of a program among the arguments of a step."""
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, tuple | list):
        return [value for one in argument for value in values_of(one)]
    return []


def after(step: Step, parts: Sequence[float]) -> float:
    """Return a Lipschitz constant of a step's value, from those of what it reads; infinite where none is known."""
    largest = max(parts, default=0.0)
    if largest == 0.0:
        return 0.0
    kinds = [value for value in (*step.arguments, *dict(step.keywords).values()) if isinstance(value, Kind)]
    if any(kind.name not in ("own", "float32", "float64") for kind in kinds):
        return math.inf  # rounding to integers jumps
    if step.packet in MOVING:
        return largest
    if step.packet in ("add", "sub", "rsub") and not step.keywords:
        return sum(parts)
    if step.packet in ("mul", "div") and len(step.arguments) == 2 and isinstance(step.arguments[1], int | float):
        factor = abs(float(step.arguments[1]))
        return largest * (factor if step.packet == "mul" else 1.0 / factor if factor else math.inf)
    return largest * _FACTORS.get(step.packet, math.inf)
