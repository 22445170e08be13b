r"""The registry: what each torch operation is for an affine value (see :mod:`~simplicit.baseline.affine`).

:data:`REGISTRY` has one entry per operation, of one of four kinds (see :mod:`~simplicit.baseline.rules`):

- :class:`Elementwise`: an activation φ, which opens a group of states;
- :class:`Linear`: a function with the signature of the torch operation, from affine values to an affine value;
- :class:`Moving`: elements only change places;
- :class:`Filling`: a tensor of constants, of a size that may depend on the number of samples.

Whatever an entry cannot represent it refuses with a :class:`~simplicit.baseline.affine.NotAffineError`. Operations that
are others in disguise are in :mod:`~simplicit.baseline.rewrites`. A new operation is one new entry, here or there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from simplicit.baseline.affine import Affine, NotAffineError, Shape, as_vector
from simplicit.baseline.moving import PROBES, BatchSize
from simplicit.baseline.rewrites import REWRITES
from simplicit.baseline.rules import Elementwise, Filling, Linear, Moving, Rule
from simplicit.implicit import Activation, CsrMap

__all__ = ["ADVICE", "REGISTRY", "supported"]

Operand: TypeAlias = Affine | Tensor | float
Function = TypeVar("Function", bound=Callable[..., Any])

_BOTH_DEPEND = "it multiplies two values that both depend on the input"
_UNIT_VECTORS_AT_ONCE = 256


# An activation takes the arguments of its operation after the first one, with torch's defaults.


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    if scale != 1 or input_scale != 1:
        raise NotAffineError("ELU with inner scales is not known")
    return Activation.of("elu", alpha=alpha)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    return Activation.of("hardtanh", min_val=min_val, max_val=max_val)


def _leaky_relu(negative_slope: float = 0.01) -> Activation:
    return Activation.of("leaky_relu", negative_slope=negative_slope)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    return Activation.of("softplus", beta=beta, threshold=threshold)


def _gelu(*, approximate: str = "none") -> Activation:
    return Activation("gelu_tanh" if approximate == "tanh" else "gelu")


# Elements change places, and nothing else happens to them.
# fmt: off
_MOVING = (
    "_unsafe_view", "cat", "clone", "copy", "detach", "diag_embed", "diagonal", "expand", "flip", "hstack", "index",
    "index_put", "index_select", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "repeat_interleave",
    "roll", "select", "select_scatter", "slice", "slice_scatter", "split", "split_with_sizes", "squeeze", "stack",
    "t", "tile", "transpose", "tril", "triu", "unbind", "unfold", "unsqueeze", "upsample_nearest1d",
    "upsample_nearest2d", "view",
)
# fmt: on

_FILLING = ("full", "full_like", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "zeros", "zeros_like")

REGISTRY: dict[str, Rule] = {
    **{name: Elementwise(partial(Activation, name)) for name in ("abs", "relu", "sigmoid", "silu", "tanh")},
    "elu": Elementwise(_elu),
    "gelu": Elementwise(_gelu),
    "hardtanh": Elementwise(_hardtanh),
    "leaky_relu": Elementwise(_leaky_relu),
    "softplus": Elementwise(_softplus),
    **dict.fromkeys(_MOVING, Moving()),
    **dict.fromkeys(("fill", "masked_fill", "pad"), Moving(numbers=("value",))),
    "where": Moving(numbers=("self", "other")),
    **dict.fromkeys(_FILLING, Filling()),
}


def _linear(*names: str) -> Callable[[Function], Function]:
    """Enter a function under ``names``."""

    def enter(function: Function) -> Function:
        REGISTRY.update(dict.fromkeys(names, Linear(function)))
        return function

    return enter


def _lifted(operand: Operand, dimensions: int) -> Affine:
    """An operand of an elementwise operation as an affine value, ``dimensions`` those of a sample of the others."""
    if isinstance(operand, Affine):
        return operand
    tensor = operand if isinstance(operand, Tensor) else torch.tensor(operand, dtype=torch.float64)
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


@_linear("add")
def _add(self: Operand, other: Operand, *, alpha: float = 1) -> Affine:
    first, second = _aligned(self, other)
    return first.plus(second.scaled(np.full(second.size, alpha, dtype=np.float64)))


@_linear("sub")
def _sub(self: Operand, other: Operand, *, alpha: float = 1) -> Affine:
    return _add(self, other, alpha=-alpha)


@_linear("rsub")
def _rsub(self: Operand, other: Operand, alpha: float = 1) -> Affine:
    return _add(other, self, alpha=-alpha)


@_linear("neg")
def _neg(self: Affine) -> Affine:
    return self.scaled(np.full(self.size, -1.0))


@_linear("mul")
def _mul(self: Operand, other: Operand) -> Affine:
    first, second = _aligned(self, other)
    if second.is_constant:
        return first.scaled(second.constant)
    if first.is_constant:
        return second.scaled(first.constant)
    raise NotAffineError(_BOTH_DEPEND)


@_linear("div")
def _div(self: Operand, other: Operand, *, rounding_mode: str | None = None) -> Affine:
    if rounding_mode is not None:
        raise NotAffineError("it rounds")
    first, second = _aligned(self, other)
    if not second.is_constant:
        raise NotAffineError("it divides by a value that depends on the input")
    if not second.constant.all():
        raise NotAffineError("it divides by zero")
    return first.scaled(1.0 / second.constant)


@_linear("sum")
def _sum(self: Affine, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Affine:
    _refuse_rounding(dtype)
    summed = _feature_axes(dim, self.shape)
    kept = tuple(1 if axis in summed else length for axis, length in enumerate(self.shape))
    rows = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), self.shape).ravel()
    entries = (np.ones(self.size), (rows, np.arange(self.size)))
    shape = kept if keepdim else tuple(length for axis, length in enumerate(self.shape) if axis not in summed)
    return self.through(CsrMap(sp.csr_array(entries, shape=(math.prod(kept), self.size))), shape)


@_linear("mean")
def _mean(self: Affine, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Affine:
    total = _sum(self, dim, keepdim, dtype=dtype)
    return total.scaled(np.full(total.size, total.size / self.size))


def _feature_axes(dim: int | Sequence[int] | None, shape: Shape) -> set[int]:
    """The axes of a sample that torch's ``dim`` means, which counts the batch dimension as 0."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(shape) + 1))
    axes = {d % (len(shape) + 1) - 1 for d in dims}
    if -1 in axes:
        raise NotAffineError("it takes the samples of a batch together")
    return axes


@_linear("linear")
def _affine_layer(input: Operand, weight: Operand, bias: Operand | None = None) -> Affine:  # noqa: A002
    value, matrix = _variable(input), _constant(weight)
    if matrix.ndim != 2:
        raise NotAffineError(f"its weight has {matrix.ndim} dimensions, not 2")
    leading = value.shape[:-1]
    repeats = math.prod(leading)
    blocks = matrix.numpy() if repeats == 1 else sp.kron(sp.eye_array(repeats), matrix.numpy(), format="csr")
    result = value.through(CsrMap(blocks), (*leading, matrix.shape[0]))
    return result if bias is None else _add(result, bias)


@_linear("matmul", "mm", "bmm")
def _matmul(self: Operand, other: Operand) -> Affine:
    if isinstance(self, Affine) and isinstance(other, Tensor) and other.ndim == 2 and self.shape:
        return _affine_layer(self, other.T)
    if isinstance(self, Affine) and not self.is_constant:
        right = _constant(other)
        return _by_unit_vectors(lambda units: units @ right, self)
    left = _constant(self)
    return _by_unit_vectors(lambda units: left @ units, _variable(other))


@_linear("einsum")
def _einsum(equation: str, operands: Sequence[Operand], *, path: Any = None) -> Affine:
    varying = [place for place, operand in enumerate(operands) if isinstance(operand, Affine) and operand.terms]
    if len(varying) != 1:
        raise NotAffineError(_BOTH_DEPEND)
    (place,) = varying
    before = [_constant(operand) for operand in operands[:place]]
    after = [_constant(operand) for operand in operands[place + 1 :]]
    return _by_unit_vectors(lambda units: torch.einsum(equation, *before, units, *after), _variable(operands[place]))


@_linear("cumsum")
def _cumsum(self: Affine, dim: int, *, dtype: Any = None) -> Affine:
    _refuse_rounding(dtype)
    return _by_unit_vectors(lambda units: torch.cumsum(units, dim), self)


@_linear("diff")
def _diff(self: Affine, n: int = 1, dim: int = -1) -> Affine:
    return _by_unit_vectors(lambda units: torch.diff(units, n, dim), self)


@_linear("_to_copy", "type_as")
def _converted(self: Affine, *targets: Any, **options: Any) -> Affine:
    for target in (*targets, *options.values()):
        _refuse_rounding(target.dtype if isinstance(target, Tensor) else target)
    return self


@_linear("sym_size")
def _sym_size(self: Affine, dim: int) -> int | BatchSize:
    sizes: tuple[int | BatchSize, ...] = (BatchSize(PROBES), *self.shape)
    return sizes[dim]


def _refuse_rounding(dtype: Any) -> None:
    if isinstance(dtype, torch.dtype) and dtype not in (torch.float32, torch.float64):
        raise NotAffineError(f"it converts to {dtype}")


def _constant(operand: Operand) -> Tensor:
    """An operand that has to be constant, as a float64 tensor."""
    if isinstance(operand, Affine):
        if not operand.is_constant:
            raise NotAffineError(_BOTH_DEPEND)
        return torch.from_numpy(operand.constant).reshape(1, *operand.shape)
    return torch.from_numpy(as_vector(torch.as_tensor(operand))).reshape(torch.as_tensor(operand).shape)


def _variable(operand: Operand) -> Affine:
    if not isinstance(operand, Affine):
        raise NotAffineError("the batch dimension is not where it is needed")
    return operand


def _by_unit_vectors(operation: Callable[[Tensor], Tensor], value: Affine) -> Affine:
    """``operation`` (linear in one tensor) of an affine value; its matrix is what it makes of the unit vectors.

    They are given to it as samples, with the zero vector as last one: if that does not stay zero, samples are mixed.
    """
    images = []
    for start in range(0, value.size, _UNIT_VECTORS_AT_ONCE):
        stop = min(start + _UNIT_VECTORS_AT_ONCE, value.size)
        units = torch.zeros(stop - start + 1, value.size, dtype=torch.float64)
        units[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        image = operation(units.reshape(-1, *value.shape))
        if image.ndim == 0 or image.shape[0] != units.shape[0] or image[-1].any():
            raise NotAffineError("it mixes the samples of a batch")
        images.append(sp.csr_array(image[:-1].reshape(stop - start, -1).numpy()))
    return value.through(CsrMap(sp.vstack(images).T), tuple(image.shape[1:]))


ADVICE: dict[str, str] = {
    **dict.fromkeys(
        ("softmax", "_softmax", "log_softmax", "_log_softmax"),
        "it is not elementwise; drop it at the end of the network, so that the outputs are the logits",
    ),
    "native_dropout": "it is random also in evaluation mode; pass `training=self.training` to it",
}


def supported() -> str:
    """The operations that are known, by kind, without torch's internal spellings."""
    rewritten = {str(operation.overloadpacket).removeprefix("aten.") for operation in REWRITES}
    kinds = {
        "activations": {name for name, rule in REGISTRY.items() if isinstance(rule, Elementwise)},
        "written in terms of others": rewritten,
        "linear": {name for name, rule in REGISTRY.items() if isinstance(rule, Linear)},
        "moving elements": {name for name, rule in REGISTRY.items() if isinstance(rule, Moving)},
        "making constants": {name for name, rule in REGISTRY.items() if isinstance(rule, Filling)},
    }
    public = {kind: sorted(name for name in names if name[0] != "_") for kind, names in kinds.items()}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in public.items())
