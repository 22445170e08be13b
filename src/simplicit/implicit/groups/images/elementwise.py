r"""Interval images of elementwise operations.

A φ that never falls maps both ends; one with a single minimum at x₀, as GELU, SiLU and Mish, falls before it and rises
after it; sine and cosine lie in [-1, 1]. Evaluating a φ of slope about 1 costs a few units in the last place of z and
of φ(z), and that is given up for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.interval import Interval, Rounding, real

#: From the rounding, the operation of torch and its arguments, in which intervals stand, to the image; None for none.
Rule = Callable[..., Any]

#: Those that never fall, for the parameters that they have in general (see :func:`_rises`).
RISING = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "log2",
        "log10",
        "sqrt",
        "tanh",
        "sigmoid",
        "relu",
        "relu6",
        "erf",
        "atan",
        "asinh",
        "sinh",
        "hardsigmoid",
        "hardtanh",
        "softplus",
        "log_sigmoid",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "sign",
        "floor",
        "ceil",
        "round",
        "trunc",
        "softshrink",
        "hardshrink",
        "nan_to_num",
        "special_erf",
        "sgn",
        "asin",
        "atanh",
        "erfinv",
        "logit",
        "special_log_ndtr",
        "special_ndtri",
    ]
)
#: Those that never rise.
FALLING = frozenset(["erfc", "rsqrt"])

# Where they are smallest: the roots of the derivatives in 30 digits, and x for hardswish.
_LOWEST = {
    "gelu": -0.751791524693564,
    "gelu_tanh": -0.752461422071016,
    "silu": -1.278464542761073,
    "mish": -1.192431214515495,
    "hardswish": -1.5,
    "cosh": 0.0,
}


def rising(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Interval | None:
    """Return the image of an operation of :data:`RISING`."""
    if not isinstance(x, Interval | Tensor) or _has_interval((args, kwargs)) or not _rises(call, args, kwargs):
        return None
    z = real(x, at)
    jump = _jump(call, args, kwargs)
    low, high = call(z.lower, *args, **kwargs) - jump, call(z.upper, *args, **kwargs) + jump
    if packet_of(call) in ("sign", "floor", "ceil", "round", "trunc", "relu", "nan_to_num"):
        return at.checked(low, high)
    size = _size(call, z)
    lower, upper = at.out(low, low, size[0]).lower, at.out(high, high, size[1]).upper
    if packet_of(call) in ("exp", "exp2", "sqrt", "sigmoid", "softplus"):
        lower = lower.clamp(min=0.0)
    return at.checked(lower, upper)


def falling(at: Rounding, call: Rule, x: Any) -> Interval:
    """Return the image of an operation of :data:`FALLING`."""
    z = real(x, at)
    found = at.out(call(z.upper), call(z.lower))
    return Interval(found.lower.clamp(min=0.0), found.upper)


def valley(at: Rounding, call: Rule, x: Any, **kwargs: Any) -> Interval:
    """Return the image of a φ with one minimum, the better half of it for monotone parts."""
    z, name = real(x, at), packet_of(call)
    lowest = _LOWEST["gelu_tanh" if kwargs.get("approximate") == "tanh" else name]
    ends = call(z.lower, **kwargs), call(z.upper, **kwargs)
    least = call(torch.full_like(z.lower, lowest), **kwargs)
    # The root is known to more digits than this, within which φ is flat to its square.
    inside = (z.lower <= lowest + 1e-7) & (z.upper >= lowest - 1e-7)
    low = torch.where(inside, torch.minimum(least - 1e-13, torch.minimum(*ends)), torch.minimum(*ends))
    return at.out(low, torch.maximum(*ends), z.largest if name != "cosh" else 0.0)


def _size(call: Rule, z: Interval) -> tuple[Tensor | float, Tensor | float]:
    """Return what errors are measured against beside φ(z): |z| for φ of a bounded slope, and 0 for others."""
    if packet_of(call) in ("exp", "exp2", "log", "log2", "log10", "sqrt", "sinh", "expm1", "log1p"):
        return 0.0, 0.0
    return z.lower.abs().clamp(max=1e300), z.upper.abs().clamp(max=1e300)


def packet_of(call: Any) -> str:
    return str(call.overloadpacket).removeprefix("aten.")


def _rises(call: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether parameters are such that φ never falls: slopes and scales that are not negative."""
    numbers = [one for one in (*args, *kwargs.values()) if isinstance(one, int | float)]
    if packet_of(call) in ("elu", "celu", "leaky_relu", "softshrink", "hardshrink", "softplus"):
        return all(number >= 0 for number in numbers)
    return not any(isinstance(one, Tensor) for one in (*args, *kwargs.values()))


def _jump(call: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return by how much torch's softplus falls where it switches to the identity."""
    if packet_of(call) != "softplus":
        return 0.0
    settings = dict(zip(("beta", "threshold"), args, strict=False)) | kwargs
    beta, threshold = settings.get("beta", 1.0), settings.get("threshold", 20.0)
    return math.log1p(math.exp(-threshold)) / beta if beta else math.inf


def _has_interval(argument: Any) -> bool:
    if isinstance(argument, Interval):
        return True
    if isinstance(argument, dict):
        return _has_interval(tuple(argument.values()))
    return isinstance(argument, list | tuple) and any(_has_interval(one) for one in argument)


def _add(at: Rounding, call: Rule, x: Any, y: Any, alpha: float = 1.0) -> Interval:
    other = real(y, at)
    return iv.add(at, real(x, at), other if alpha == 1 else iv.multiply(at, other, real(alpha, at)))


def _sub(at: Rounding, call: Rule, x: Any, y: Any, alpha: float = 1.0) -> Interval:
    return _add(at, call, x, iv.negative(real(y, at)), alpha)


def _rsub(at: Rounding, call: Rule, x: Any, y: Any, alpha: float = 1.0) -> Interval:
    return _sub(at, call, y, x, alpha)


def _mul(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    if x is y:
        return iv.square(at, real(x, at))
    return iv.multiply(at, real(x, at), real(y, at))


def _div(at: Rounding, call: Rule, x: Any, y: Any, rounding_mode: str | None = None) -> Interval | None:
    return None if rounding_mode else iv.divide(at, real(x, at), real(y, at))


def _abs(at: Rounding, call: Rule, x: Any) -> Interval:
    z = real(x, at)
    ends = z.lower.abs(), z.upper.abs()
    inside = (z.lower <= 0) & (z.upper >= 0)
    return at.checked(torch.where(inside, torch.zeros_like(z.lower), torch.minimum(*ends)), torch.maximum(*ends))


def _pow(at: Rounding, call: Rule, x: Any, power: Any) -> Interval | None:
    if isinstance(x, int | float) and isinstance(power, Interval) and x > 0:
        ends = torch.pow(x, power.lower), torch.pow(x, power.upper)
        # The logarithm of x times the exponent loses a few units of that product.
        size = (1.0 + power.largest.clamp(max=1e300) * abs(math.log(x))) * torch.maximum(*ends)
        return at.out(torch.minimum(*ends), torch.maximum(*ends), size)
    if isinstance(power, Tensor) and power.numel() == 1:
        power = power.item()
    if not isinstance(power, int | float):
        return None
    if power < 0:
        found = _pow(at, call, x, -power)
        return None if found is None else iv.reciprocal(at, found)
    z = real(x, at)
    if power == 2:
        return iv.square(at, z)
    ends = z.lower**power, z.upper**power  # NaN for roots of what may be negative
    if power % 2 == 0:
        inside = (z.lower <= 0) & (z.upper >= 0)
        return at.out(torch.where(inside, 0.0, torch.minimum(*ends)), torch.maximum(*ends), ulps=ULPS_OF_POWERS)
    return at.out(*ends, ulps=ULPS_OF_POWERS)


#: Powers are products, or exponentials of logarithms.
ULPS_OF_POWERS = 64.0


def _wave(at: Rounding, call: Rule, x: Any) -> Interval:
    z = real(x, at)
    middle, radius = z.centred
    # Of slope 1, and an argument that is off by its last place.
    low, high = (call(middle) + sign * radius for sign in (-1.0, 1.0))
    low, high = low.nan_to_num(nan=-1.0).clamp(min=-1.0), high.nan_to_num(nan=1.0).clamp(max=1.0)
    return at.out(low, high, z.largest.clamp(max=1e300))


def _where(at: Rounding, call: Rule, condition: Any, x: Any, y: Any) -> Interval:
    first, second = real(x, at), real(y, at)
    sure, possible = ends_of(condition)
    either = iv.hull(first, second)
    lower = torch.where(sure, first.lower, torch.where(possible, either.lower, second.lower))
    return Interval(lower, torch.where(sure, first.upper, torch.where(possible, either.upper, second.upper)))


def _masked_fill(at: Rounding, call: Rule, x: Any, mask: Any, value: Any) -> Interval:
    return _where(at, call, mask, value, x)


def ends_of(condition: Any) -> tuple[Tensor, Tensor]:
    """Return what is certainly and what is possibly true."""
    if isinstance(condition, Interval):
        return condition.lower.bool(), condition.upper.bool()
    return condition.bool(), condition.bool()


def _extreme(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    first, second = real(x, at), real(y, at)
    return Interval(call(first.lower, second.lower), call(first.upper, second.upper))


def _clamp(at: Rounding, call: Rule, x: Any, least: Any = None, most: Any = None, **named: Any) -> Interval:
    if packet_of(call) == "clamp_max":
        least, most = None, least
    z = real(x, at)
    for value, function in ((named.get("min", least), torch.maximum), (named.get("max", most), torch.minimum)):
        if value is not None:
            bound = real(value, at)
            z = Interval(function(z.lower, bound.lower), function(z.upper, bound.upper))
    return z


def _prelu(at: Rounding, call: Rule, x: Any, weight: Any) -> Interval:
    z, slope = real(x, at), real(weight, at)
    if slope.lower.ndim == 1 and z.lower.ndim > 1:
        shape = (1, -1, *[1] * (z.lower.ndim - 2))
        slope = slope.moved(lambda end: end.reshape(shape))
    right = z.moved(lambda end: end.clamp(min=0.0))
    left = z.moved(lambda end: end.clamp(max=0.0))
    return iv.add(at, right, iv.multiply(at, left, slope))


def _glu(at: Rounding, call: Rule, x: Any, dim: int = -1) -> Interval:
    z = real(x, at)
    (a, b), (c, d) = z.lower.chunk(2, dim), z.upper.chunk(2, dim)
    gate = at.out(torch.sigmoid(b), torch.sigmoid(d), torch.maximum(b.abs(), d.abs()).clamp(max=1e300))
    return iv.multiply(at, Interval(a, c), gate)


def _lerp(at: Rounding, call: Rule, x: Any, y: Any, weight: Any) -> Interval:
    step = iv.multiply(at, real(weight, at), _sub(at, call, y, x))
    found = iv.add(at, real(x, at), step)
    # Formed the other way round from weight 1/2 on, which differs by rounding of the size of both.
    return at.out(found.lower, found.upper, real(x, at).largest + real(y, at).largest)


def _addcmul(at: Rounding, call: Rule, x: Any, y: Any, z: Any, value: float = 1.0) -> Interval:
    return _add(at, call, x, _mul(at, call, _mul(at, call, y, z), value))


def _addcdiv(at: Rounding, call: Rule, x: Any, y: Any, z: Any, value: float = 1.0) -> Interval:
    return _add(at, call, x, _mul(at, call, iv.divide(at, real(y, at), real(z, at)), value))


def _logaddexp(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    first, second = real(x, at), real(y, at)
    low, high = torch.logaddexp(first.lower, second.lower), torch.logaddexp(first.upper, second.upper)
    return at.out(low, high, (first.largest + second.largest).clamp(max=1e300))


#: One entry for each elementwise operation.
POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(RISING, rising),
    **dict.fromkeys(FALLING, falling),
    **dict.fromkeys(("gelu", "silu", "mish", "hardswish", "cosh"), valley),
    **dict.fromkeys(("sin", "cos"), _wave),
    **dict.fromkeys(("maximum", "minimum"), _extreme),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": lambda at, call, x: iv.negative(real(x, at)),
    "abs": _abs,
    "square": lambda at, call, x: iv.square(at, real(x, at)),
    "reciprocal": lambda at, call, x: iv.reciprocal(at, real(x, at)),
    "pow": _pow,
    "where": _where,
    "masked_fill": _masked_fill,
    "prelu": _prelu,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "logaddexp": _logaddexp,
}
#: Elementwise too, but not of the shape of its operand.
GATED: dict[str, Rule] = {"glu": _glu}


def _compared(
    certainly: Callable[[Interval, Interval], Tensor], possibly: Callable[[Interval, Interval], Tensor]
) -> Rule:
    """Return the rule of a comparison, three-valued."""

    def rule(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
        first, second = real(x, at), real(y, at)
        return Interval(certainly(first, second), possibly(first, second))

    return rule


def _same(x: Interval, y: Interval) -> Tensor:
    return (x.lower == x.upper) & (y.lower == y.upper) & (x.lower == y.lower)


def _meet(x: Interval, y: Interval) -> Tensor:
    return (x.lower <= y.upper) & (y.lower <= x.upper)


def _not(at: Rounding, call: Rule, x: Any) -> Interval | None:
    if not isinstance(x, Interval):
        return None
    sure, possible = ends_of(x)
    return Interval(~possible, ~sure) if not x.is_real and x.lower.dtype == torch.bool else None


def _connected(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Return the rule of a connective that never falls."""

    def rule(at: Rounding, call: Rule, x: Any, y: Any) -> Interval | None:
        both = [ends_of(one) for one in (x, y) if isinstance(one, Interval | Tensor)]
        truths = all(_is_truth(one) for one in (x, y))
        return Interval(function(both[0][0], both[1][0]), function(both[0][1], both[1][1])) if truths else None

    return rule


def _is_truth(value: Any) -> bool:
    tensor = value.lower if isinstance(value, Interval) else value
    return isinstance(tensor, Tensor) and tensor.dtype == torch.bool


#: One entry for each comparison and connective of truth values.
TRUTHS: dict[str, Rule] = {
    "lt": _compared(lambda x, y: x.upper < y.lower, lambda x, y: x.lower < y.upper),
    "le": _compared(lambda x, y: x.upper <= y.lower, lambda x, y: x.lower <= y.upper),
    "gt": _compared(lambda x, y: x.lower > y.upper, lambda x, y: x.upper > y.lower),
    "ge": _compared(lambda x, y: x.lower >= y.upper, lambda x, y: x.upper >= y.lower),
    "eq": _compared(_same, _meet),
    "ne": _compared(lambda x, y: ~_meet(x, y), lambda x, y: ~_same(x, y)),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    **dict.fromkeys(("logical_and", "bitwise_and"), _connected(torch.logical_and)),
    **dict.fromkeys(("logical_or", "bitwise_or"), _connected(torch.logical_or)),
}
