r"""Operations written in terms of others before the graph is read.

Each entry is an identity between torch functions. It is applied in place of the operation before the graph is read
(:mod:`~simplicit.network.functional`, or torch.export itself, as one of its own decompositions), so that the rest of
the package never sees the left-hand side, neither when the model is built nor when states are recorded. A maximum, for
instance, becomes a ReLU state: max(a, b) = a + ReLU(b - a).

An entry that returns NotImplemented leaves the operation as it is; :data:`REFUSALS` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
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


def _recurrent_cell(phi: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A step of a plain recurrent network as what it is: two layers and φ."""

    def step(
        input: Tensor,  # noqa: A002
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        return phi(functional.linear(input, w_ih, b_ih) + functional.linear(hx, w_hh, b_hh))

    return step


def _scattered(op: Any) -> Callable[..., Any]:
    """A scatter of complex numbers as one of pairs, which has a derivative."""

    def scatter(self: Tensor, src: Tensor, dim: int = 0, *rest: Any, **named: Any) -> Any:
        if not self.is_complex():
            return NotImplemented
        pairs, others = (torch.view_as_real(torch.resolve_conj(one.to(self.dtype))) for one in (self, src))
        return torch.view_as_complex(op(pairs, others, dim % self.dim(), *rest, **named))

    return scatter


_TABLE: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("maximum.default max.other", lambda self, other: self + torch.relu(other - self)),
    ("minimum.default min.other", lambda self, other: self - torch.relu(self - other)),
    ("clamp.default clamp.Tensor clip.default clip.Tensor", _clamp),
    ("clamp_min.default clamp_min.Tensor", _at_least),
    ("clamp_max.default clamp_max.Tensor", _at_most),
    ("threshold.default", _threshold),
    ("relu6.default", lambda self: functional.hardtanh(self, 0.0, 6.0)),
    ("hardsigmoid.default", lambda self: functional.hardtanh(self + 3.0, 0.0, 6.0) / 6.0),
    ("log_sigmoid.default", lambda self: -functional.softplus(-self, 1.0, _EXACT_SOFTPLUS_THRESHOLD)),
    ("selu.default", lambda self: _SELU_SCALE * functional.elu(self, _SELU_ALPHA)),
    ("prelu.default", _prelu),
    ("celu.default", _celu),
    ("rrelu.default", _rrelu),
    # It has no derivative, and this one has the derivative 0.
    (
        "heaviside.default",
        lambda self, values: torch.where(self == 0, values.to(self.dtype), (self > 0).to(self.dtype)),
    ),
    ("zero.default", torch.zeros_like),
    # These have no derivatives.
    *((f"{name}.default", _scattered(getattr(_aten, name))) for name in ("slice_scatter", "select_scatter")),
    ("copy.default", lambda self, src, non_blocking=False: src.to(self.dtype).expand(self.shape).clone()),
    ("rnn_tanh_cell.default", _recurrent_cell(torch.tanh)),
    ("rnn_relu_cell.default", _recurrent_cell(torch.relu)),
    ("addmm.default", lambda self, mat1, mat2, *, beta=1, alpha=1: beta * self + alpha * (mat1 @ mat2)),
    ("addcmul.default", lambda self, tensor1, tensor2, *, value=1: self + value * (tensor1 * tensor2)),
    ("addcdiv.default", lambda self, tensor1, tensor2, *, value=1: self + value * (tensor1 / tensor2)),
    ("lerp.Scalar lerp.Tensor", lambda self, end, weight: self + weight * (end - self)),
    *((f"max_pool{rank}d.default", pooling.max_pool(rank)) for rank in (1, 2, 3)),
    *((f"max_pool{rank}d_with_indices.default", pooling.max_pool_with_indices(rank)) for rank in (1, 2, 3)),
    *((f"adaptive_max_pool{rank}d.default", pooling.adaptive_max_pool(rank)) for rank in (1, 2, 3)),
    ("amax.default", pooling.extremum(1)),
    ("amin.default", pooling.extremum(-1)),
    ("max.dim", pooling.max_along(1)),
    ("min.dim", pooling.max_along(-1)),
)

#: The function of torch's own that each operation is.
#: From operations to how they are written.
Rewrites = Mapping[Any, Callable[..., Any]]

REWRITES: Rewrites = {attrgetter(name)(_aten): function for names, function in _TABLE for name in names.split()}

#: Those of maxima and minima, whose last bits differ.
MAXIMA = frozenset(one for one in REWRITES if any(word in str(one) for word in ("max", "min", "clamp", "clip")))

#: Why an operation was left as it is.
REFUSALS: dict[Any, str] = {
    _aten.threshold.default: "it jumps where its threshold and its value differ, so that it has no bounded slope",
    _aten.celu.default: "its alpha must be positive",
    _aten.rrelu.default: "it is random also in evaluation mode; pass `training=self.training` to it",
}
