r"""Linear operations of torch on affine values (see :mod:`~simplicit.network.affine`).

Each function has the signature of the torch operation it stands for, with affine values in place of the tensors that
depend on the input, and returns an affine value. What it cannot represent it refuses with a NotAffineError. That an
operation computes in the network's own dtype has been checked before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit import CsrMap, LinearMap, RepeatedMap
from simplicit.implicit.maps import Csr
from simplicit.network.affine import Affine, MixingError, NotAffineError, Shape, as_vector
from simplicit.network.moving import NUMBER_OF_SAMPLES, BatchSize
from simplicit.network.repeated import once

Operand: TypeAlias = Affine | Tensor | float

_BOTH_DEPEND = "it multiplies two values that both depend on the input"
# A matrix up to this many entries that is used once is kept in compressed sparse rows, which fits what trainings leave.
_SMALL_MATRIX = 2**16
# What an operation makes of the unit vectors is found for so many at a time: a few MB for thousands of features.
_UNIT_VECTORS_AT_ONCE = 256


def _lifted(operand: Operand, dimensions: int) -> Affine:
    """An operand of an elementwise operation as an affine value; samples of others have ``dimensions``."""
    if isinstance(operand, Affine):
        return operand
    tensor = torch.as_tensor(operand, dtype=None if isinstance(operand, Tensor) else torch.float64)
    if tensor.ndim > dimensions:
        if tensor.ndim > dimensions + 1 or tensor.shape[0] != 1:
            raise NotAffineError("a constant does not broadcast to each sample alike")
        tensor = tensor[0]
    return Affine(tuple(tensor.shape), {}, as_vector(tensor))


def _aligned(*operands: Operand) -> list[Affine]:
    """The operands of an elementwise operation, broadcast to one shape."""
    dimensions = {len(operand.shape) for operand in operands if isinstance(operand, Affine)}
    if len(dimensions) != 1:
        raise NotAffineError("broadcasting puts the batch dimension of one operand beside a feature of the other")
    lifted = [_lifted(operand, max(dimensions)) for operand in operands]
    shape = np.broadcast_shapes(*(operand.shape for operand in lifted))
    return [operand.broadcast(shape) for operand in lifted]


def add(self: Operand, other: Operand, *, alpha: float = 1) -> Affine:
    first, second = _aligned(self, other)
    return first.plus(second if alpha == 1 else second.scaled(np.full(second.size, alpha, dtype=np.float64)))


def mul(self: Operand, other: Operand) -> Affine:
    first, second = _aligned(self, other)
    if second.is_constant:
        return first.scaled(second.constant)
    if first.is_constant:
        return second.scaled(first.constant)
    raise NotAffineError(_BOTH_DEPEND)


def div(self: Operand, other: Operand, *, rounding_mode: str | None = None) -> Affine:
    if rounding_mode is not None:
        raise NotAffineError("it rounds")
    first, second = _aligned(self, other)
    if not second.is_constant:
        raise NotAffineError("it divides by a value that depends on the input")
    if not second.constant.all():
        raise NotAffineError("it divides by zero")
    return first.scaled(1.0 / second.constant)


def summed(self: Affine, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Affine:
    summed = _feature_axes(dim, self.shape)
    kept = tuple(1 if axis in summed else length for axis, length in enumerate(self.shape))
    rows = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), self.shape).ravel()
    entries = (np.ones(self.size), (rows, np.arange(self.size)))
    shape = kept if keepdim else tuple(length for axis, length in enumerate(self.shape) if axis not in summed)
    return self.through(CsrMap(sp.csr_array(entries, shape=(math.prod(kept), self.size))), shape)


def mean(self: Affine, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Affine:
    total = summed(self, dim, keepdim, dtype=dtype)
    return total.scaled(np.full(total.size, total.size / self.size))


def _feature_axes(dim: int | Sequence[int] | None, shape: Shape) -> set[int]:
    """The axes of a sample that torch's ``dim`` means, which counts the batch dimension as 0."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(shape) + 1))
    axes = {d % (len(shape) + 1) - 1 for d in dims}
    if -1 in axes:
        raise MixingError("it takes the samples of a batch together")
    return axes


def affine_layer(input: Operand, weight: Operand, bias: Operand | None = None) -> Affine:  # noqa: A002
    value, matrix = variable(input), weight_of(weight)
    if matrix.ndim != 2:
        raise NotAffineError(f"its weight has {matrix.ndim} dimensions, not 2")
    leading = value.shape[:-1]
    repeats = math.prod(leading)
    if repeats == 1 and matrix.size <= _SMALL_MATRIX:
        linear: LinearMap = once(_written, weight)
    else:
        linear = RepeatedMap(matrix, repeats, copy=False)
    result = value.through(linear, (*leading, matrix.shape[0]))
    return result if bias is None else add(result, bias)


def _written(weight: Operand) -> CsrMap:
    return CsrMap(weight_of(weight).astype(np.float64))


def matmul(self: Operand, other: Operand) -> Affine:
    if isinstance(self, Affine) and isinstance(other, Tensor) and other.ndim == 2 and self.shape:
        return affine_layer(self, other.T)
    if isinstance(other, Affine) and isinstance(self, Tensor) and self.ndim == 2 and len(other.shape) > 1:
        *leading, _, width = other.shape
        linear = RepeatedMap(weight_of(self), math.prod(leading), width, copy=False)
        return other.through(linear, (*leading, self.shape[0], width))
    return _bilinear(torch.matmul, self, other)


def _bilinear(operation: Callable[[Tensor, Tensor], Tensor], first: Operand, second: Operand) -> Affine:
    """A bilinear operation on two operands, of which one has to be constant."""
    if isinstance(first, Affine) and not first.is_constant:
        right = constant(second)
        return by_unit_vectors(lambda units: operation(units, right), first)
    left = constant(first)
    return by_unit_vectors(lambda units: operation(left, units), variable(second))


def einsum(equation: str, operands: Sequence[Operand], *, path: Any = None) -> Affine:
    affine = {place: operand for place, operand in enumerate(operands) if isinstance(operand, Affine)}
    varying = [place for place, operand in affine.items() if not operand.is_constant]
    if len(varying) > 1:
        raise NotAffineError(_BOTH_DEPEND)
    place = varying[0] if varying else next(iter(affine))
    if len(operands) == 2 and isinstance(operands[1 - place], Tensor):
        inputs, _, output = equation.replace(" ", "").partition("->")
        names = inputs.split(",")
        if is_layer(names[place], names[1 - place], output):
            value = variable(operands[place])
            return _as_layer(value, weight_of(operands[1 - place]), names[place], names[1 - place], output)
    before = [constant(operand) for operand in operands[:place]]
    after = [constant(operand) for operand in operands[place + 1 :]]
    return by_unit_vectors(lambda units: torch.einsum(equation, *before, units, *after), variable(operands[place]))


def is_layer(value: str, weight: str, output: str) -> bool:
    """Whether an einsum of these axes multiplies all positions of a value, samples first, with the same weight."""
    names = (value, weight, output)
    of_value, of_weight, of_output = map(set, names)
    if "." in "".join(names) or len(of_value) + len(of_weight) + len(of_output) != len("".join(names)):
        return False
    samples_first = bool(value) and output[:1] == value[0] and value[0] not in of_weight
    return samples_first and of_output == of_value ^ of_weight


def _as_layer(value: Affine, weight: NDArray[Any], of_value: str, of_weight: str, output: str) -> Affine:
    """Such an einsum: positions are brought before what is summed over, multiplied, and brought to their places."""
    summed_over = [axis for axis in of_weight if axis in of_value]
    kept = [axis for axis in of_value[1:] if axis not in of_weight]
    made = [axis for axis in of_weight if axis not in of_value]
    sizes = dict(zip(of_value[1:], value.shape, strict=True)) | dict(zip(of_weight, weight.shape, strict=True))
    matrix = weight.transpose([of_weight.index(axis) for axis in [*made, *summed_over]])
    matrix = matrix.reshape(math.prod(sizes[axis] for axis in made), -1)
    turned = _turned(value, [of_value.index(axis) - 1 for axis in [*kept, *summed_over]])
    linear = RepeatedMap(matrix, math.prod(sizes[axis] for axis in kept), copy=False)
    result = turned.through(linear, tuple(sizes[axis] for axis in [*kept, *made]))
    return _turned(result, [[*kept, *made].index(axis) for axis in output[1:]])


def _turned(value: Affine, order: Sequence[int]) -> Affine:
    """The value with its axes in another order."""
    columns = np.arange(value.size).reshape(value.shape).transpose(order)
    return value.selected(columns.ravel(), columns.shape)


def cumsum(self: Affine, dim: int, *, dtype: Any = None) -> Affine:
    return by_unit_vectors(lambda units: torch.cumsum(units, dim), self)


def diff(self: Affine, n: int = 1, dim: int = -1) -> Affine:
    return by_unit_vectors(lambda units: torch.diff(units, n, dim), self)


def tensordot(self: Operand, other: Operand, dims_self: Sequence[int], dims_other: Sequence[int]) -> Affine:
    return _bilinear(lambda first, second: torch.tensordot(first, second, (dims_self, dims_other)), self, other)


def dropout(input: Affine, p: float, train: bool) -> Affine:  # noqa: A002
    """Return the value itself, which is what dropout does in evaluation."""
    if train:
        raise MixingError("it is random also in evaluation mode; pass `training=self.training` to it")
    return input


def converted(self: Affine, *_targets: Any, **_options: Any) -> Affine:
    """Return the value itself: the numbers of a model are rounded to the network's dtype once, at the end."""
    return self


def sym_size(self: Affine, dim: int) -> int | BatchSize:
    if self.layout is None:
        sizes: tuple[int | BatchSize, ...] = (NUMBER_OF_SAMPLES, *self.shape)
    else:
        left, length, right = self.layout.folded(self.shape)
        sizes = (*left, BatchSize(tuple(length * number for number in NUMBER_OF_SAMPLES.at)), *right)
    return sizes[dim]


def constant(operand: Operand) -> Tensor:
    """Return an operand that has to be constant, as a float64 tensor."""
    if isinstance(operand, Affine):
        if not operand.is_constant:
            raise NotAffineError(_BOTH_DEPEND)
        return torch.from_numpy(operand.constant).reshape(1, *operand.shape)
    tensor = torch.as_tensor(operand)
    return torch.from_numpy(as_vector(tensor)).reshape(tensor.shape)


def weight_of(operand: Operand) -> NDArray[Any]:
    """Return a constant that is a weight, in its own dtype where that is float32 or float64, sharing its memory."""
    if isinstance(operand, Tensor) and operand.dtype in (torch.float32, torch.float64):
        return np.asarray(operand.detach().contiguous().numpy())
    weight: NDArray[Any] = constant(operand).numpy()
    return weight


def variable(operand: Operand) -> Affine:
    """Return an operand that has to depend on the input."""
    if not isinstance(operand, Affine):
        raise NotAffineError("the batch dimension is not where it is needed")
    return operand


def by_unit_vectors(operation: Callable[[Tensor], Tensor], value: Affine) -> Affine:
    """Return ``operation``, linear in one tensor, of an affine value."""
    matrix, shape = matrix_of(operation, value.shape)
    return value.through(CsrMap(matrix), shape)


def matrix_of(operation: Callable[[Tensor], Tensor], shape: Shape) -> tuple[Csr, Shape]:
    """The matrix of a linear ``operation`` on samples of a shape, and the shape of its results.

    Its columns are what it makes of the unit vectors. They are given to it as samples, with the zero vector as last
    one: if that does not stay zero, samples are mixed.
    """
    size, images = math.prod(shape), []
    for start in range(0, size, _UNIT_VECTORS_AT_ONCE):
        stop = min(start + _UNIT_VECTORS_AT_ONCE, size)
        units = torch.zeros(stop - start + 1, size, dtype=torch.float64)
        units[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        image = operation(units.reshape(-1, *shape))
        if image.ndim == 0 or image.shape[0] != units.shape[0] or image[-1].any():
            raise MixingError("it mixes the samples of a batch")
        images.append(sp.csr_array(image[:-1].reshape(stop - start, -1).numpy()))
    return sp.csr_array(sp.vstack(images).T), tuple(image.shape[1:])
