r"""Elementwise activations φ: their values, derivatives, slopes and homogeneity.

Well-posedness (Theorem 2.3) asks one number of an activation, its slope bound L with |φ(a) - φ(b)| <= L |a - b|;
rescaling (Theorem 2.4) asks one property, φ(c x) = c φ(x) for c > 0. Both stand here beside the function itself, in
:data:`ACTIVATIONS`: a new activation is one entry there, one in :mod:`simplicit.network.registry` for the operation of
torch that it is, and one in :mod:`simplicit.runtime.onnx.activations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from simplicit.errors import InputError

#: Evaluating φ costs so many units in the last place of z and φ(z): in tests at most 5, for GELU; 16 leaves room for
#: vectorised variants and for the evaluation of the spread.
EVALUATION_ULPS = 16.0

_INVERSE_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715

# Maxima of |φ'|, rounded up in the last digit. GELU: φ'' = 0 at x = √2; the other two at the root of φ'' found in
# 30 digits, x = 2.3993572805 (SiLU) and x = 1.4185040088 (GELU in its tanh form).
_GELU_SLOPE = 1.128904145185163
_GELU_TANH_SLOPE = 1.128993068658772
_SILU_SLOPE = 1.099839320128868

# Maxima of |φ''|, rounded up in the last digit: 4/(3√3) (tanh), 1/(6√3) (sigmoid), 2/√(2π) at 0 (GELU in both forms).
_TANH_CURVATURE = 0.7698003589195011
_SIGMOID_CURVATURE = 0.09622504486493764
_GELU_CURVATURE = 0.7978845608028655

# torch's softplus switches to the identity at beta z = threshold and jumps there by log(1 + exp(-threshold)) / beta.
# Below this threshold the jump is too large for the function to pass as one with slope 1.
_SMALLEST_SOFTPLUS_THRESHOLD = 10.0


@dataclass(frozen=True)
class Definition:
    """φ and φ' of a tensor, elementwise and always a new tensor, and what :class:`Activation` says of φ.

    What depends on the parameters, which are the keys of ``defaults``, is a function of them, as keywords. ``defect``
    says what is wrong with values of them, and returns None where nothing is.
    """

    function: Callable[..., Tensor]
    derivative: Callable[..., Tensor]
    slope: float | Callable[..., float] = 1.0
    homogeneous: bool | Callable[..., bool] = False
    monotone: bool | Callable[..., bool] = True
    jump: float | Callable[..., float] = 0.0
    curvature: float | Callable[..., float] = 0.0
    kinks: tuple[float, ...] | Callable[..., tuple[float, ...]] = ()
    defaults: Mapping[str, float] = field(default_factory=dict)
    defect: Callable[..., str | None] | None = None


_QUANTITIES = ("slope", "homogeneous", "monotone", "jump", "curvature", "kinks")


def _step(z: Tensor, below: float) -> Tensor:
    """1 where z > 0, ``below`` elsewhere."""
    return torch.where(z > 0, z.new_tensor(1.0), z.new_tensor(below))


def _sigmoid_derivative(z: Tensor) -> Tensor:
    value = torch.sigmoid(z)
    return value * (1.0 - value)


def _elu_derivative(z: Tensor, alpha: float) -> Tensor:
    return torch.where(z > 0, torch.ones_like(z), alpha * torch.exp(torch.clamp(z, max=0.0)))


def _gelu_derivative(z: Tensor) -> Tensor:
    normal = 0.5 * torch.erfc(-z * math.sqrt(0.5))
    return normal + z * torch.exp(-0.5 * z * z) * _INVERSE_SQRT_2PI


def _gelu_tanh_derivative(z: Tensor) -> Tensor:
    bend = torch.tanh(_SQRT_2_OVER_PI * (z + _GELU_CUBIC * z**3))
    inner = _SQRT_2_OVER_PI * (1.0 + 3.0 * _GELU_CUBIC * z * z)
    # The product of a vanishing and an overflowing factor would be NaN; the limit is zero.
    tail = torch.nan_to_num(0.5 * z * (1.0 - bend * bend) * inner, nan=0.0)
    return 0.5 * (1.0 + bend) + tail


def _silu_derivative(z: Tensor) -> Tensor:
    value = torch.sigmoid(z)
    return value * (1.0 + z * (1.0 - value))


def _softplus_defect(beta: float, threshold: float) -> str | None:
    if beta <= 0:
        return f"beta = {beta} must be positive"
    if threshold < _SMALLEST_SOFTPLUS_THRESHOLD:
        return (
            f"threshold = {threshold} makes torch's softplus jump by {math.log1p(math.exp(-threshold)) / beta:.2g}, "
            f"so that it has no slope bound; take a threshold of at least {_SMALLEST_SOFTPLUS_THRESHOLD:g}"
        )
    return None


#: Activations by their names.
ACTIVATIONS: dict[str, Definition] = {
    "relu": Definition(functional.relu, lambda z: _step(z, 0.0), homogeneous=True, kinks=(0.0,)),
    "leaky_relu": Definition(
        functional.leaky_relu,
        lambda z, negative_slope: _step(z, negative_slope),
        slope=lambda negative_slope: max(1.0, abs(negative_slope)),
        homogeneous=True,
        monotone=lambda negative_slope: negative_slope >= 0.0,
        kinks=(0.0,),
        defaults={"negative_slope": 0.01},
    ),
    "abs": Definition(torch.abs, torch.sign, homogeneous=True, monotone=False, kinks=(0.0,)),
    "identity": Definition(torch.clone, torch.ones_like, homogeneous=True),
    "tanh": Definition(torch.tanh, lambda z: 1.0 - torch.tanh(z) ** 2, curvature=_TANH_CURVATURE),
    "sigmoid": Definition(torch.sigmoid, _sigmoid_derivative, slope=0.25, curvature=_SIGMOID_CURVATURE),
    "hardtanh": Definition(
        functional.hardtanh,
        lambda z, min_val, max_val: ((z > min_val) & (z < max_val)).to(z.dtype),
        kinks=lambda min_val, max_val: (min_val, max_val),
        defaults={"min_val": -1.0, "max_val": 1.0},
        defect=lambda min_val, max_val: (
            None if min_val < max_val else f"min_val = {min_val} must be below max_val = {max_val}"
        ),
    ),
    "softplus": Definition(
        functional.softplus,
        lambda z, beta, threshold: torch.where(beta * z > threshold, torch.ones_like(z), torch.sigmoid(beta * z)),
        jump=lambda beta, threshold: math.log1p(math.exp(-threshold)) / beta,
        curvature=lambda beta, threshold: 0.25 * beta,
        defaults={"beta": 1.0, "threshold": 20.0},
        defect=_softplus_defect,
    ),
    "elu": Definition(
        functional.elu,
        _elu_derivative,
        slope=lambda alpha: max(1.0, abs(alpha)),
        homogeneous=lambda alpha: alpha == 0.0,
        monotone=lambda alpha: alpha >= 0.0,
        curvature=lambda alpha: abs(alpha),
        kinks=(0.0,),
        defaults={"alpha": 1.0},
    ),
    "gelu": Definition(functional.gelu, _gelu_derivative, slope=_GELU_SLOPE, monotone=False, curvature=_GELU_CURVATURE),
    "gelu_tanh": Definition(
        lambda z: functional.gelu(z, approximate="tanh"),
        _gelu_tanh_derivative,
        slope=_GELU_TANH_SLOPE,
        monotone=False,
        curvature=_GELU_CURVATURE,
    ),
    "silu": Definition(functional.silu, _silu_derivative, slope=_SILU_SLOPE, monotone=False, curvature=0.5),
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function φ, a hashable value: two with the same name and parameters are equal.

    Known names, with their parameters and defaults as in torch: ``relu``, ``leaky_relu(negative_slope=0.01)``, ``abs``,
    ``identity``, ``tanh``, ``sigmoid``, ``hardtanh(min_val=-1, max_val=1)``, ``softplus(beta=1, threshold=20)``,
    ``elu(alpha=1)``, ``gelu`` (with the error function), ``gelu_tanh`` (torch's ``approximate="tanh"``), ``silu``.

    Parameters
    ----------
    name : str
        One of the names above, or of :data:`ACTIVATIONS`.
    parameters : tuple of (str, float)
        Those that differ from their defaults; missing ones are filled in. :meth:`of` takes them as keywords.

    Attributes
    ----------
    slope : float
        The smallest L with |φ(a) - φ(b)| <= L |a - b| for all a, b, apart from ``jump``.
    homogeneous : bool
        Whether φ(c x) = c φ(x) for every c > 0, as rescaling needs.
    monotone : bool
        Whether φ never falls.
    jump : float
        How far torch's φ departs from the continuous function it stands for; only softplus, 2e-9 by default.
    curvature : float
        A bound on |φ''| away from the kinks; 0 for what is piecewise linear.
    kinks : tuple of float
        Where φ is not twice differentiable.

    Raises
    ------
    InputError
        The name or a parameter is unknown, or a value is not finite or outside its range.
    """

    name: str
    parameters: tuple[tuple[str, float], ...] = ()
    slope: float = field(init=False, repr=False, compare=False)
    homogeneous: bool = field(init=False, repr=False, compare=False)
    monotone: bool = field(init=False, repr=False, compare=False)
    jump: float = field(init=False, repr=False, compare=False)
    curvature: float = field(init=False, repr=False, compare=False)
    kinks: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = ACTIVATIONS.get(self.name) if isinstance(self.name, str) else None
        if known is None:
            raise InputError(
                f"activation {self.name!r} is unknown; known are: {', '.join(ACTIVATIONS)}", argument="activation"
            )
        values = dict(known.defaults)
        for key, value in self.parameters:
            if key not in values:
                names = ", ".join(values) or "none"
                raise InputError(f"activation {self.name!r} has no parameter {key!r}; its parameters are: {names}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"activation {self.name!r}: {key} = {value!r} must be a finite number")
            values[key] = float(value)
        defect = None if known.defect is None else known.defect(**values)
        if defect is not None:
            raise InputError(f"activation {self.name!r}: {defect}")
        object.__setattr__(self, "parameters", tuple(values.items()))
        for name in _QUANTITIES:
            quantity = getattr(known, name)
            object.__setattr__(self, name, quantity(**values) if callable(quantity) else quantity)

    @classmethod
    def of(cls, name: str, **parameters: float) -> Activation:
        """Return the activation ``name`` with ``parameters``, for instance ``Activation.of("elu", alpha=0.5)``."""
        return cls(name, tuple(parameters.items()))

    def __call__(self, z: Tensor) -> Tensor:
        """Return φ(z), elementwise, for a float32 or float64 tensor of any shape; always a new tensor."""
        return ACTIVATIONS[self.name].function(z, **dict(self.parameters))

    def derivative(self, z: Tensor) -> Tensor:
        """Return φ'(z), elementwise; at a kink the value that torch's autograd takes (0 for ReLU and abs at 0)."""
        return ACTIVATIONS[self.name].derivative(z, **dict(self.parameters))

    def spread(self, z: Tensor, radius: Tensor) -> Tensor:
        """Bound |φ(z') - φ(z)| over all |z' - z| <= radius, elementwise, apart from rounding and :attr:`jump`.

        The bound is L · radius, and for monotone φ the values at both ends: much less where φ is flat or bounded.
        """
        bound = self.slope * radius
        if not self.monotone:
            return bound
        middle = self(z)
        return torch.minimum(bound, torch.maximum(self(z + radius) - middle, middle - self(z - radius)))

    def image(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bound φ over [lower, upper], elementwise, float64, rounding included; infinite where nothing is known."""
        lower, upper = lower.double(), upper.double()
        if self.monotone:
            low, high = self(lower), self(upper)
        else:
            centre = 0.5 * lower + 0.5 * upper
            value, spread = self(centre), self.spread(centre, upper - centre)
            low, high = value - spread, value + spread
        low = low - self.jump - EVALUATION_ULPS * torch.finfo(torch.float64).eps * (1.0 + low.abs())
        high = high + self.jump + EVALUATION_ULPS * torch.finfo(torch.float64).eps * (1.0 + high.abs())
        unknown = ~(low <= high)
        return low.masked_fill(unknown, -math.inf), high.masked_fill(unknown, math.inf)

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Bound |φ'| over [lower, upper], elementwise: by the slopes of its half-lines for homogeneous φ, else by L."""
        if not self.homogeneous:
            return torch.full_like(lower, self.slope)
        left, right = self.half_lines
        below = torch.where(lower < 0, lower.new_tensor(abs(left)), 0.0)
        return torch.where(upper > 0, below.clamp(min=abs(right)), below)

    @property
    def half_lines(self) -> tuple[float, float]:
        """The slopes of a homogeneous φ left and right of 0; InputError for any other."""
        if not self.homogeneous:
            raise InputError(f"activation {self.name!r} is not made of two half-lines that meet in 0")
        ends = self(torch.tensor([-1.0, 1.0], dtype=torch.float64)).tolist()
        return -ends[0], ends[1]

    def to_config(self) -> dict[str, Any]:
        """Return ``{"name": …, "parameters": {…}}``, ready for JSON."""
        return {"name": self.name, "parameters": dict(self.parameters)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Activation:
        """Return the activation that :meth:`to_config` gave ``config`` for; InputError if it holds anything else."""
        entries = config if isinstance(config, Mapping) else {}
        name, parameters = entries.get("name"), entries.get("parameters")
        if len(entries) != 2 or not isinstance(name, str) or not isinstance(parameters, Mapping):
            raise InputError(f'an activation is {{"name": …, "parameters": {{…}}}}, got {config!r:.80}')
        activation = cls(name, tuple(parameters.items()))
        if missing := [key for key, _ in activation.parameters if key not in parameters]:
            raise InputError(f"activation {name!r} lacks the parameter {missing[0]!r}")
        return activation
