r"""Expressions: what a network computes beyond affine maps and plain activations, and the blocks that it becomes.

An operation that is neither affine nor an activation φ is kept as an *expression* of the values that it is applied to.
Where its result is a state, samples first and in floating point, the expression becomes the program of a block
(:class:`~simplicit.implicit.Block`), whose operands are the affine values at its leaves,

    z = (v₁, v₂, …),   x = φ(z).

Where the result is none, such as a mask of truth values or the indices of a sorting, the expression goes on into those
that use it: a block then holds the whole way from affine values to the next state.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.errors import InputError, first_line
from simplicit.implicit import Block
from simplicit.implicit.groups import INPUT
from simplicit.implicit.groups.program import GETITEM, Samples, Step, Value, kind_of
from simplicit.implicit.inputs import InputLayout
from simplicit.network.affine import Affine, NotAffineError, Shape
from simplicit.network.layouts import Layout, canonical, possible
from simplicit.network.moving import NUMBER_OF_SAMPLES, BatchSize, depends_on_values
from simplicit.network.trees import leaves

#: Samples in the look at whether they stay apart, a number that is no usual length, and those that are looked at.
SAMPLES, _LOOKED_AT = 11, (0, 5, 10)
# Two runs of a block on the same sample agree to this, relative to its largest result.
_SAME = 1e-6
_aten = torch.ops.aten


class NotFiniteError(NotAffineError):
    """An expression is infinite somewhere, as a masked score before a softmax: it is none of a state."""


@dataclass(frozen=True, eq=False)
class Expression:
    """A call of an operation on values of which some are affine or expressions again.

    ``dtype`` is that of its result; None where there are several results. ``refusal`` says why a result in floating
    point could not become states.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dtype: torch.dtype | None = None
    refusal: str = ""


def converted(value: Affine, dtype: torch.dtype) -> Expression:
    """An affine value that the network has in a dtype of its own, such as integers or truth values, in that dtype."""
    if dtype.is_floating_point:
        return Expression(_aten._to_copy.default, (value,), {"dtype": dtype}, dtype)
    whole = Expression(_aten.round.default, (value,), {}, None)
    return Expression(_aten._to_copy.default, (whole,), {"dtype": dtype}, dtype)


def arranged(value: Affine | Expression, shape: Shape, layout: Layout | None) -> Affine | Expression:
    """A value with samples first, in the layout that the network has it in."""
    if layout is None:
        return value
    left, length, right = layout.folded(shape)
    dtype = value.dtype if isinstance(value, Expression) else None
    turned = Expression(_aten.permute.default, (value, tuple(layout.order(len(shape)))), {}, dtype)
    return Expression(_aten.reshape.default, (turned, (*left, _times_samples(length), *right)), {}, dtype)


def samples_first(value: Expression, shape: Shape, layout: Layout | None) -> Expression:
    """The inverse of :func:`arranged`."""
    if layout is None:
        return value
    at = layout.axis
    sizes = (*shape[:at], layout.outer, NUMBER_OF_SAMPLES, layout.inner, *shape[at + 2 :])
    apart = Expression(_aten.reshape.default, (value, sizes), {}, value.dtype)
    order = layout.order(len(shape))
    back = tuple(order.index(dimension) for dimension in range(len(order)))
    return Expression(_aten.permute.default, (apart, back), {}, value.dtype)


def _times_samples(factor: int) -> BatchSize:
    return BatchSize(tuple(factor * number for number in NUMBER_OF_SAMPLES.at))


def operands_of(expression: Expression) -> list[Affine]:
    """The affine values that it is made of, each once, in the order in which they occur."""
    found: dict[int, Affine] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Affine):
            found.setdefault(id(value), value)
        elif isinstance(value, Expression) and id(value) not in seen:
            seen.add(id(value))
            for leaf in leaves((value.args, dict(value.kwargs))):
                visit(leaf)

    visit(expression)
    return list(found.values())


@dataclass(frozen=True)
class MadeBlock:
    """A block, the shape of one sample of its result and the layout that the network has it in, and its operands."""

    block: Block
    shape: Shape
    layout: Layout | None
    operands: list[Affine]


def inputs_to_try(layout: InputLayout) -> Tensor:
    """Inputs on which blocks are tried, (SAMPLES, p): normal numbers, and 0 or 1 where the network takes integers."""
    generator = torch.Generator().manual_seed(0)
    U = torch.randn(SAMPLES, layout.width, generator=generator, dtype=torch.float64)
    for spec, columns in zip(layout.specs, layout.columns.values(), strict=True):
        if not spec.floating:
            U[:, columns] = (U[:, columns] > 0).double()
    return U


def block_of(expression: Expression, own: torch.dtype, U: Tensor) -> MadeBlock:
    """The block that an expression is in a network of the dtype ``own``, tried on inputs such as U (SAMPLES, p).

    NotAffineError is raised where its operation is not known to blocks, or it mixes samples.
    """
    operands = operands_of(expression)
    block, integers = _written(expression, operands, own, 1)
    if block.constants or not operands or any(one.terms.keys() <= {INPUT} for one in operands):
        shape, layout = _checked(
            block, _side_by_side(_tried(one, k, k in integers, U) for k, one in enumerate(operands))
        )
    else:
        shape, layout = _checked_before(block, tuple(number in integers for number in range(len(operands))))
    block, _ = _written(samples_first(expression, shape, layout), operands, own, math.prod(shape))
    return MadeBlock(block, shape, layout, operands)


def _written(expression: Expression, operands: list[Affine], own: torch.dtype, size: int) -> tuple[Block, set[int]]:
    """The program of an expression, and which of its operands are integers or truth values."""
    program = _Program(operands, own)
    try:
        program.add(expression)
        shapes = tuple(one.shape for one in operands)
        return Block(shapes, program.numbered(), size, tuple(program.constants)), program.integers
    except InputError as error:
        raise NotAffineError(str(error)) from None


class _Program:
    """The steps of an expression, each value once.

    Values are numbered operands first, constants next; as the number of constants is not known before the end, steps
    are numbered from 0 with :class:`_Later` in their arguments, and shifted by :meth:`numbered`.
    """

    def __init__(self, operands: list[Affine], own: torch.dtype) -> None:
        self._own = own
        self._operands = {id(one): Value(number) for number, one in enumerate(operands)}
        self._done: dict[int, Any] = {}
        self._steps: list[Step] = []
        self._kept: list[Any] = []  # alive, so that no id is taken twice
        self.constants: list[np.ndarray] = []
        #: Numbers of the operands that are integers or truth values.
        self.integers: set[int] = set()

    def add(self, expression: Expression) -> _Later:
        """The number of the step that computes an expression."""
        if id(expression) in self._done:
            known: _Later = self._done[id(expression)]
            return known
        if expression.operation is _aten.round.default and isinstance(expression.args[0], Affine):
            self.integers.add(self._operands[id(expression.args[0])].number)
        args = self._argument(expression.args)
        keywords = tuple((name, self._argument(value)) for name, value in expression.kwargs.items())
        self._steps.append(Step(_named(expression.operation), args, keywords))
        self._done[id(expression)] = place = _Later(len(self._steps) - 1)
        return place

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Affine):
            return self._operands[id(value)]
        if isinstance(value, Expression):
            return self.add(value)
        if isinstance(value, Tensor) and value.is_complex():
            return self._complex(value)
        if isinstance(value, Tensor):
            other = value.is_floating_point() and value.dtype != self._own
            return self._constant_in(value, value.dtype) if other else self._constant(value)
        if isinstance(value, BatchSize):
            return _samples(value)
        if isinstance(value, torch.dtype):
            return kind_of(value, self._own)
        if isinstance(value, tuple | list):
            return tuple(self._argument(one) for one in value)
        if isinstance(value, torch.memory_format | torch.layout | torch.device):
            return None
        if isinstance(value, complex):
            return self._complex(torch.tensor(value, dtype=self._own.to_complex()))
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise NotAffineError(f"an argument of it, {value!r:.40}, cannot be kept")

    def _complex(self, value: Tensor) -> _Later:
        """A complex constant, made of its real and imaginary parts."""
        parts = self._argument(torch.view_as_real(value.resolve_conj()).contiguous())
        self._steps.append(Step("view_as_complex.default", (parts,)))
        return _Later(len(self._steps) - 1)

    def _constant_in(self, value: Tensor, dtype: torch.dtype) -> _Later:
        """A constant in another floating-point dtype than the network's own, which is that of a block's constants."""
        self._steps.append(Step("_to_copy.default", (self._constant(value),), (("dtype", kind_of(dtype, self._own)),)))
        return _Later(len(self._steps) - 1)

    def _constant(self, value: Tensor) -> _Constant:
        known = self._done.get(id(value))
        if known is None:
            self._kept.append(value)
            self.constants.append(value.detach().contiguous().numpy())
            known = self._done[id(value)] = _Constant(len(self.constants) - 1)
        found: _Constant = known
        return found

    def numbered(self) -> tuple[Step, ...]:
        """The steps, with all values by their numbers."""
        first = len(self._operands)

        def final(value: Any) -> Any:
            if isinstance(value, _Constant):
                return Value(first + value.number)
            if isinstance(value, _Later):
                return Value(first + len(self.constants) + value.number)
            return tuple(final(one) for one in value) if isinstance(value, tuple) else value

        return tuple(
            Step(step.operation, final(step.arguments), tuple((name, final(value)) for name, value in step.keywords))
            for step in self._steps
        )


@dataclass(frozen=True)
class _Later:
    number: int


@dataclass(frozen=True)
class _Constant:
    number: int


def _named(operation: Any) -> str:
    if operation is operator.getitem:
        return GETITEM
    if operation in (_aten.view.default, _aten._unsafe_view.default):
        return "reshape.default"  # strides differ from those that the network had
    if isinstance(operation, torch._ops.OpOverload) and operation.namespace == "aten":
        return str(operation).removeprefix("aten.")
    raise NotAffineError("it is not one of torch's own operations")


def check_kept(result: Any, own: torch.dtype) -> None:
    """Refuse results of a size that depends on values, and complex numbers that are no pairs of the network's own."""
    if depends_on_values(result):
        raise NotAffineError("how many numbers it gives depends on the input; write torch.where(mask, x, y)")
    for one in leaves(result):
        if isinstance(one, Tensor) and one.is_complex():
            try:
                kind_of(one.dtype, own)
            except InputError as error:
                raise NotAffineError(str(error)) from None


def _samples(value: BatchSize) -> Samples:
    """The linear function of the number of samples that an integer is."""
    (m, n, _), (at_m, at_n, _) = NUMBER_OF_SAMPLES.at, value.at
    slope = (at_n - at_m) // (n - m)
    return Samples(slope, at_m - slope * m)


def _tried(operand: Affine, number: int, whole: bool, U: Tensor) -> Tensor:
    """Values of an operand to try a block on, (SAMPLES, size): those at inputs U if it depends on nothing else."""
    if operand.terms.keys() <= {INPUT}:
        value = torch.from_numpy(operand.constant)[None].repeat(SAMPLES, 1)
        for block in operand.terms.values():
            block.astype(np.float64).add_to_(value, U)
        return value
    return _random(operand.size, number, whole)


def _random(size: int, number: int, whole: bool) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    if whole:
        return torch.randint(0, 2, (SAMPLES, size), generator=generator).double()
    return torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64)


@lru_cache(maxsize=256)
def _checked_before(block: Block, integers: tuple[bool, ...]) -> tuple[Shape, Layout | None]:
    """As :func:`_checked`, of a block without constants on states alone, some of them integers."""
    operands = enumerate(zip(block.operands, integers, strict=True))
    return _checked(block, _side_by_side(_random(math.prod(shape), k, whole) for k, (shape, whole) in operands))


def _side_by_side(parts: Iterable[Tensor]) -> Tensor:
    """Values of all operands, (SAMPLES, their sizes): a single one, the widest that there are, is not copied."""
    found = [*parts]
    return found[0] if len(found) == 1 else torch.cat([torch.zeros(SAMPLES, 0, dtype=torch.float64), *found], dim=1)


def _checked(block: Block, z: Tensor) -> tuple[Shape, Layout | None]:
    """The shape of one sample of the result and its layout, after a look at whether samples stay apart."""
    try:
        whole = block.result(z)
        if torch.isinf(whole).any():
            raise NotFiniteError("its result is infinite")
        for layout in possible(tuple(whole.shape), SAMPLES):
            # One after the other: the results of all of them are large where the states are many.
            if all(_apart(whole, i, block.result(z[[i, i]]), layout) for i in _LOOKED_AT):
                return tuple(canonical(whole, SAMPLES, layout).shape[1:]), layout
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise NotAffineError(f"torch says: {first_line(error)}") from error
    raise NotAffineError("it mixes the samples of a batch")


def _apart(whole: Tensor, i: int, alone: Tensor, layout: Layout | None) -> bool:
    """Whether sample i of a result, read by a layout, is what the program makes of that sample twice."""
    if layout not in possible(tuple(alone.shape), 2):
        return False
    own, found = canonical(alone, 2, layout)[0].double(), canonical(whole, SAMPLES, layout)[i].double()
    size = float(own.abs().nan_to_num(posinf=0.0).max()) if own.numel() else 0.0
    return own.shape == found.shape and torch.allclose(
        own, found, rtol=0.0, atol=_SAME * max(size, 1e-30), equal_nan=True
    )
