r"""Operations written in terms of others before the graph is read.

Each entry is an identity between torch functions. torch.export applies it in place of the operation (as one of its own
decompositions), so that the rest of the package never sees the left-hand side, neither when the model is built nor
when states are recorded. A maximum, for instance, becomes a ReLU state: max(a, b) = a + ReLU(b - a).

An entry that returns NotImplemented leaves the operation as it is; :data:`REFUSALS` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from simplicit.network import pooling

_aten = torch.ops.aten

_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717

# From here on log(1 + exp(x)) and x are the same number in float64, so that torch's shortcut does not show.
_EXACT_SOFTPLUS_THRESHOLD = 40.0


def _maximum(self: Tensor, other: Tensor) -> Tensor:
    return self + torch.relu(other - self)


def _minimum(self: Tensor, other: Tensor) -> Tensor:
    return self - torch.relu(self - other)


def _at_least(self: Tensor, bound: float | Tensor) -> Tensor:
    if not isinstance(bound, Tensor) and bound == 0:
        return torch.relu(self)
    return torch.relu(self - bound) + bound


def _at_most(self: Tensor, bound: float | Tensor) -> Tensor:
    return bound - torch.relu(bound - self)


def _clamp(self: Tensor, min: Any = None, max: Any = None) -> Tensor:  # noqa: A002
    lower, upper = (None if _is_infinite(min, -math.inf) else min), (None if _is_infinite(max, math.inf) else max)
    if isinstance(lower, int | float) and isinstance(upper, int | float):
        # Bounds the wrong way round give the upper one everywhere.
        return functional.hardtanh(self, lower, upper) if lower < upper else torch.full_like(self, upper)
    bounded = self.clone() if lower is None else _at_least(self, lower)
    return bounded if upper is None else _at_most(bounded, upper)


def _is_infinite(bound: Any, sign: float) -> bool:
    return isinstance(bound, int | float) and bound == sign


def _threshold(self: Tensor, threshold: float, value: float) -> Tensor:
    return _at_least(self, value) if threshold == value else NotImplemented


def _relu6(self: Tensor) -> Tensor:
    return functional.hardtanh(self, 0.0, 6.0)


def _prelu(self: Tensor, weight: Tensor) -> Tensor:
    per_channel = weight.reshape([-1] + [1] * (self.dim() - 2))
    return torch.relu(self) - per_channel * torch.relu(-self)


def _celu(self: Tensor, alpha: float = 1.0) -> Tensor:
    # torch computes elu(x, alpha, 1, 1 / alpha), which is this only for positive alpha.
    return alpha * functional.elu(self / alpha) if alpha > 0 else NotImplemented


def _rrelu(
    self: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    return NotImplemented if training else functional.leaky_relu(self, (lower + upper) / 2)


def _selu(self: Tensor) -> Tensor:
    return _SELU_SCALE * functional.elu(self, _SELU_ALPHA)


def _log_sigmoid(self: Tensor) -> Tensor:
    return -functional.softplus(-self, 1.0, _EXACT_SOFTPLUS_THRESHOLD)


def _hardsigmoid(self: Tensor) -> Tensor:
    return functional.hardtanh(self + 3.0, 0.0, 6.0) / 6.0


def _addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * self + alpha * (mat1 @ mat2)


def _addcmul(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return self + value * (tensor1 * tensor2)


def _addcdiv(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return self + value * (tensor1 / tensor2)


def _zero(self: Tensor) -> Tensor:
    return torch.zeros_like(self)


def _lerp(self: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    return self + weight * (end - self)


#: The function of torch's own that each operation is.
REWRITES: dict[Any, Callable[..., Any]] = {
    _aten.maximum.default: _maximum,
    _aten.max.other: _maximum,
    _aten.minimum.default: _minimum,
    _aten.min.other: _minimum,
    _aten.clamp.default: _clamp,
    _aten.clamp.Tensor: _clamp,
    _aten.clip.default: _clamp,
    _aten.clip.Tensor: _clamp,
    _aten.clamp_min.default: _at_least,
    _aten.clamp_min.Tensor: _at_least,
    _aten.clamp_max.default: _at_most,
    _aten.clamp_max.Tensor: _at_most,
    _aten.threshold.default: _threshold,
    _aten.relu6.default: _relu6,
    _aten.prelu.default: _prelu,
    _aten.celu.default: _celu,
    _aten.rrelu.default: _rrelu,
    _aten.selu.default: _selu,
    _aten.log_sigmoid.default: _log_sigmoid,
    _aten.hardsigmoid.default: _hardsigmoid,
    _aten.addmm.default: _addmm,
    _aten.addcmul.default: _addcmul,
    _aten.addcdiv.default: _addcdiv,
    _aten.zero.default: _zero,
    _aten.lerp.Scalar: _lerp,
    _aten.lerp.Tensor: _lerp,
    _aten.max_pool1d.default: pooling.max_pool(1),
    _aten.max_pool2d.default: pooling.max_pool(2),
    _aten.max_pool3d.default: pooling.max_pool(3),
    _aten.max_pool1d_with_indices.default: pooling.max_pool_with_indices(1),
    _aten.max_pool2d_with_indices.default: pooling.max_pool_with_indices(2),
    _aten.max_pool3d_with_indices.default: pooling.max_pool_with_indices(3),
    _aten.adaptive_max_pool1d.default: pooling.adaptive_max_pool(1),
    _aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool(2),
    _aten.adaptive_max_pool3d.default: pooling.adaptive_max_pool(3),
    _aten.amax.default: pooling.extremum(1),
    _aten.amin.default: pooling.extremum(-1),
    _aten.max.dim: pooling.max_along(1),
    _aten.min.dim: pooling.max_along(-1),
}

#: Why an operation was left as it is.
REFUSALS: dict[Any, str] = {
    _aten.threshold.default: "it jumps where its threshold and its value differ, so that it has no bounded slope",
    _aten.celu.default: "its alpha must be positive",
    _aten.rrelu.default: "it is random also in evaluation mode; pass `training=self.training` to it",
}
