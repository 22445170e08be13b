"""Operations on each number by itself, or on two broadcast tensors, that compute numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from simplicit.runtime.onnx.operations.calls import Call, common
from simplicit.runtime.onnx.operations.registry import Entry, alike


def unary(operator: str) -> Entry:
    """Return the entry of an operation that is an operator of ONNX."""
    return lambda call: call.node(operator, call.x())


def formula(function: Callable[[Call, str], str]) -> Entry:
    """Return the entry of an operation that is a formula of its first argument."""
    return lambda call: function(call, call.x())


def _pair(call: Call, dtype: torch.dtype | None = None) -> tuple[str, str]:
    """The names of ``self`` and ``other`` in the dtype of the result, or another."""
    wanted = dtype or call.result.dtype
    return call.tensor(call["self"], wanted), call.tensor(call["other"], wanted)


def binary(operator: str) -> Entry:
    """Return the entry of an operation on two tensors that is an operator of ONNX."""
    return lambda call: call.node(operator, *_pair(call))


def _scaled(call: Call, x: str, factor: float | None) -> str:
    return x if factor in (None, 1) else call.node("Mul", x, call.tensor(factor or 0, call.result.dtype))


def _added(call: Call) -> str:
    a, b = _pair(call)
    if call.result.dtype == torch.bool:
        return call.node("Or", a, b)
    return call.node("Add", a, _scaled(call, b, call["alpha"]))


def _subtracted(call: Call) -> str:
    a, b = _pair(call)
    return call.node("Sub", a, _scaled(call, b, call["alpha"]))


def _subtracted_from(call: Call) -> str:
    a, b = _pair(call)
    return call.node("Sub", b, _scaled(call, a, call["alpha"]))


def _multiplied(call: Call) -> str:
    a, b = _pair(call)
    if call.result.dtype == torch.bool:
        return call.node("And", a, b)
    return call.node("Mul", a, b)


def _trunc(call: Call, x: str) -> str:
    return call.node("Mul", call.node("Sign", x), call.node("Floor", call.node("Abs", x)))


def _divided(call: Call) -> str:
    mode = call["rounding_mode"] or ("floor" if call.packet == "floor_divide" else None)
    if call.result.dtype.is_floating_point:
        ratio = call.node("Div", *_pair(call))
        if mode is None:
            return ratio
        return call.node("Floor", ratio) if mode == "floor" else _trunc(call, ratio)
    a, b = _pair(call)
    # Integers are divided towards zero; the remainder, which has the divisor's sign, makes that the floor.
    return call.node("Div", a if mode == "trunc" else call.node("Sub", a, call.node("Mod", a, b)), b)


def _remainder(call: Call) -> str:
    a, b = _pair(call)
    if not call.result.dtype.is_floating_point:
        return call.node("Mod", a, b)
    return call.node("Sub", a, call.node("Mul", b, call.node("Floor", call.node("Div", a, b))))


def _fmod(call: Call) -> str:
    return call.node("Mod", *_pair(call), fmod=1)


def _power(call: Call) -> str:
    base, exponent = call["self"], call["exponent"]
    x = call.tensor(base, call.result.dtype)
    if exponent == 2:
        return call.node("Mul", x, x)
    if exponent in (0.5, -0.5):
        root = call.node("Sqrt", x)
        return root if exponent == 0.5 else call.node("Reciprocal", root)
    return call.node("Pow", x, call.tensor(exponent, call.result.dtype))


def _square(call: Call, x: str) -> str:
    return call.node("Mul", x, x)


def _log1p(call: Call, x: str) -> str:
    # What 1 + x loses is made up for: log(u) x / (u - 1) with u = 1 + x (Goldberg, 1991, theorem 4).
    u = call.node("Add", x, 1.0)
    same = call.node("Equal", u, 1.0)
    difference = call.node("Where", same, 1.0, call.node("Sub", u, 1.0))
    made_up = call.node("Mul", call.node("Log", u), call.node("Div", x, difference))
    return call.node("Where", call.node("Or", same, call.node("IsInf", u)), _infinite_or(call, u, x), made_up)


def _infinite_or(call: Call, u: str, x: str) -> str:
    return call.node("Where", call.node("IsInf", u), u, x)


def _expm1(call: Call, x: str) -> str:
    # tanh(x/2) (exp(x) + 1), which loses no digits near 0.
    return call.node("Mul", call.node("Tanh", call.node("Mul", x, 0.5)), call.node("Add", call.node("Exp", x), 1.0))


def _logarithm(base: float) -> Entry:
    return lambda call: call.node("Div", call.node("Log", call.x()), math.log(base))


def _frac(call: Call, x: str) -> str:
    return call.node("Sub", x, _trunc(call, x))


def _clamped(call: Call) -> str:
    x = call.x()
    for name, operator in (("min", "Max"), ("max", "Min")):
        if call[name] is not None:
            x = call.node(operator, x, call.tensor(call[name], call.result.dtype))
    return x


def _with_a_product(operator: str) -> Entry:
    """self + value · tensor1 ∘ tensor2."""

    def written(call: Call) -> str:
        dtype = call.result.dtype
        inner = call.node(operator, call.tensor(call["tensor1"], dtype), call.tensor(call["tensor2"], dtype))
        return call.node("Add", call.x(), _scaled(call, inner, call["value"]))

    return written


def _lerp(call: Call) -> str:
    dtype = call.result.dtype
    x, end, weight = (call.tensor(call[name], dtype) for name in ("self", "end", "weight"))
    return call.node("Add", x, call.node("Mul", weight, call.node("Sub", end, x)))


def _logaddexp(call: Call) -> str:
    a, b = _pair(call)
    top, apart = call.node("Max", a, b), call.node("Abs", call.node("Sub", a, b))
    bent = call.node("Log", call.node("Add", call.node("Exp", call.node("Neg", apart)), 1.0))
    return call.node("Add", top, bent)


def _xlogy(call: Call) -> str:
    a, b = _pair(call)
    value = call.node("Mul", a, call.node("Log", b))
    return call.node("Where", call.node("Equal", a, 0.0), 0.0, value)


def _numbers_only(call: Call) -> str:
    x, dtype = call.x(), call.result.dtype
    limits = torch.finfo(dtype)
    positive = limits.max if call["posinf"] is None else call["posinf"]
    negative = limits.min if call["neginf"] is None else call["neginf"]
    x = call.node("Where", call.node("IsNaN", x), call.tensor(float(call["nan"] or 0.0), dtype), x)
    x = call.node("Where", call.node("Equal", x, math.inf), call.tensor(float(positive), dtype), x)
    return call.node("Where", call.node("Equal", x, -math.inf), call.tensor(float(negative), dtype), x)


def _extreme(operator: str) -> Entry:
    def written(call: Call) -> str:
        dtype = call.result.dtype
        if dtype == torch.bool:
            return call.node("Or" if operator == "Max" else "And", *_pair(call))
        return call.node(operator, *_pair(call, common(call["self"], call["other"])))

    return written


def _sinc(call: Call, x: str) -> str:
    t = call.node("Mul", x, math.pi)
    none = call.node("Equal", t, 0.0)
    safe = call.node("Where", none, 1.0, t)
    return call.node("Where", none, 1.0, call.node("Div", call.node("Sin", safe), safe))


def _sinh(call: Call, x: str) -> str:
    # Half of expm1(x) + 1 - exp(-x), in which small x keep their digits.
    return call.node("Mul", call.node("Sub", _expm1(call, x), _expm1(call, call.node("Neg", x))), 0.5)


def _cosh(call: Call, x: str) -> str:
    return call.node("Mul", call.node("Add", call.node("Exp", x), call.node("Exp", call.node("Neg", x))), 0.5)


def _acosh(call: Call, x: str) -> str:
    return call.node("Log", call.node("Add", x, call.node("Sqrt", call.node("Sub", call.node("Mul", x, x), 1.0))))


def _asinh(call: Call, x: str) -> str:
    size = call.node("Abs", x)
    inner = call.node("Add", size, call.node("Sqrt", call.node("Add", call.node("Mul", x, x), 1.0)))
    return call.node("Mul", call.node("Sign", x), call.node("Log", inner))


def _atanh(call: Call, x: str) -> str:
    ratio = call.node("Div", call.node("Add", x, 1.0), call.node("Sub", call.node("Add", x, 0.0), 1.0))
    return call.node("Mul", call.node("Log", call.node("Neg", ratio)), 0.5)


def _logit(call: Call) -> str:
    x = call.x()
    if call["eps"] is not None:
        x = call.node("Clip", x, float(call["eps"]), 1.0 - call["eps"])
    return call.node("Log", call.node("Div", x, call.node("Sub", call.tensor(1.0), x)))


def _negative(call: Call, x: str) -> str:
    """Whether a number has a negative sign, a zero too."""
    graph = call.graph(call.first.dtype)
    return call.node("Or", graph.node("Less", x, 0.0), graph.node("Less", call.node("Reciprocal", x), 0.0))


def _angle(call: Call) -> str:
    """The angle of the point (other, self)."""
    y, x = _pair(call)
    none = call.node("Equal", x, 0.0)
    right = call.node("Atan", call.node("Div", y, call.node("Where", none, 1.0, x)))
    half = call.node("Where", call.node("Less", y, 0.0), -math.pi, call.node("Where", none, 0.0, math.pi))
    turned = call.node("Where", call.node("Less", x, 0.0), call.node("Add", right, half), right)
    upright = call.node("Mul", call.node("Sign", y), math.pi / 2)
    return call.node("Where", none, upright, turned)


def _hypotenuse(call: Call) -> str:
    return call.node("Sqrt", call.node("Add", *(call.node("Mul", one, one) for one in _pair(call))))


def _with_sign(call: Call) -> str:
    a, b = _pair(call)
    size = call.node("Abs", a)
    return call.node("Where", _negative(call, b), call.node("Neg", size), size)


def _step(call: Call) -> str:
    x, dtype = call.x(), call.result.dtype
    over = call.cast(call.node("Greater", x, 0.0), dtype)
    return call.node("Where", call.node("Equal", x, 0.0), call.tensor(call["values"], dtype), over)


def _known_of(operator: str) -> Entry:
    """The larger or smaller of two numbers, of which one may be none."""

    def written(call: Call) -> str:
        a, b = _pair(call)
        either = call.node("Where", call.node("IsNaN", b), a, call.node(operator, a, b))
        return call.node("Where", call.node("IsNaN", a), b, either)

    return written


ARITHMETIC: dict[str, Entry] = {
    "add": _added,
    "sub": _subtracted,
    "rsub": _subtracted_from,
    "mul": _multiplied,
    "div": _divided,
    "floor_divide": _divided,
    "remainder": _remainder,
    "fmod": _fmod,
    "pow": _power,
    "maximum": _extreme("Max"),
    "minimum": _extreme("Min"),
    "neg": unary("Neg"),
    "exp": unary("Exp"),
    "log": unary("Log"),
    "sqrt": unary("Sqrt"),
    "rsqrt": formula(lambda call, x: call.node("Reciprocal", call.node("Sqrt", x))),
    "reciprocal": unary("Reciprocal"),
    "abs": unary("Abs"),
    "sign": unary("Sign"),
    "erf": unary("Erf"),
    "special_erf": unary("Erf"),
    "erfc": formula(lambda call, x: call.node("Sub", call.tensor(1.0), call.node("Erf", x))),
    "sin": unary("Sin"),
    "cos": unary("Cos"),
    "tan": formula(lambda call, x: call.node("Div", call.node("Sin", x), call.node("Cos", x))),
    "asin": unary("Asin"),
    "acos": unary("Acos"),
    "atan": unary("Atan"),
    "sinh": formula(_sinh),
    "cosh": formula(_cosh),
    "asinh": formula(_asinh),
    "acosh": formula(_acosh),
    "atanh": formula(_atanh),
    "sinc": formula(_sinc),
    "floor": unary("Floor"),
    "ceil": unary("Ceil"),
    "round": unary("Round"),
    "trunc": formula(_trunc),
    "frac": formula(_frac),
    "square": formula(_square),
    "log1p": formula(_log1p),
    "expm1": formula(_expm1),
    "exp2": formula(lambda call, x: call.node("Exp", call.node("Mul", x, math.log(2.0)))),
    "log2": _logarithm(2.0),
    "log10": _logarithm(10.0),
    **alike("clamp clamp_min clamp_max", _clamped),
    "addcmul": _with_a_product("Mul"),
    "addcdiv": _with_a_product("Div"),
    "lerp": _lerp,
    "logaddexp": _logaddexp,
    **alike("atan2 arctan2", _angle),
    "hypot": _hypotenuse,
    "copysign": _with_sign,
    "signbit": lambda call: _negative(call, call.x(call.first.dtype)),
    "heaviside": _step,
    "fmax": _known_of("Max"),
    "fmin": _known_of("Min"),
    "sgn": unary("Sign"),
    "xlogy": _xlogy,
    "logit": _logit,
    "nan_to_num": _numbers_only,
}
