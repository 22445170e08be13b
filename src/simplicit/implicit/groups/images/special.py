r"""Interval images of functions of two numbers, of norms and products along dimensions, and of sampled grids.

An angle atan2(y, x) has its extremes over a box at the corners, unless the box meets the half line x <= 0, y = 0. A
norm of order p > 0 rises with every |xᵢ|. A grid sample is a convex combination of pixels (and of zeros around them),
is continuous, and moves by no more than the largest difference d of neighbours when a coordinate moves by one pixel:

    |s(v, g) - s(v₀, g₀)| <= max |v - v₀| + Σ d_axis |g - g₀|_axis.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.elementwise import POINTWISE, Rule, packet_of
from simplicit.implicit.groups.images.interval import Interval, Rounding, real
from simplicit.implicit.groups.images.products import bilinear


def _abs(at: Rounding, x: Interval) -> Interval:
    found: Interval = POINTWISE["abs"](at, torch.ops.aten.abs.default, x)
    return found


def _angle(at: Rounding, call: Rule, y: Any, x: Any) -> Interval:
    a, b = real(y, at), real(x, at)
    ends = [torch.atan2(*torch.broadcast_tensors(p, q)) for p in (a.lower, a.upper) for q in (b.lower, b.upper)]  # type: ignore[no-untyped-call]
    cut = (a.lower <= 0) & (a.upper >= 0) & (b.lower <= 0)
    corners = torch.stack(ends)
    low, high = torch.where(cut, -math.pi, corners.amin(0)), torch.where(cut, math.pi, corners.amax(0))
    return at.out(low, high)


def _hypotenuse(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    squares = iv.add(at, iv.square(at, real(x, at)), iv.square(at, real(y, at)))
    return at.out(squares.lower.clamp(min=0.0).sqrt(), squares.upper.sqrt())


def _with_sign(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    size, sign = _abs(at, real(x, at)), real(y, at)
    # A zero has a sign, too.
    low = torch.where(sign.lower > 0, size.lower, -size.upper)
    return Interval(low, torch.where(sign.upper < 0, -size.lower, size.upper))


def _step(at: Rounding, call: Rule, x: Any, values: Any) -> Interval:
    z, v = real(x, at), real(values, at)
    either = [torch.where(z.lower < 0, 0.0, torch.where(z.lower > 0, 1.0, math.inf))]
    zero = (z.lower <= 0) & (z.upper >= 0)
    low = torch.minimum(either[0], torch.where(zero, v.lower, math.inf))
    low = torch.minimum(low, torch.where(z.upper > 0, 1.0, math.inf))
    high = torch.maximum(torch.where(z.upper > 0, 1.0, -math.inf), torch.where(zero, v.upper, -math.inf))
    return Interval(low, torch.maximum(high, torch.where(z.lower < 0, 0.0, -math.inf)))


def _threshold(at: Rounding, call: Rule, x: Any, threshold: float, value: float) -> Interval:
    z = real(x, at)
    over, under = z.upper > threshold, z.lower <= threshold
    low = torch.where(over, z.lower.clamp(min=threshold), math.inf)
    high = torch.where(over, z.upper, -math.inf)
    low, high = torch.where(under, low.clamp(max=value), low), torch.where(under, high.clamp(min=value), high)
    return at.out(low, high, ulps=2.0)


def _remainder(at: Rounding, call: Rule, x: Any, divisor: Any) -> Interval | None:
    if not isinstance(divisor, int | float) or divisor == 0:
        return None
    z = real(x, at)
    least, most = sorted((0.0, float(divisor)))
    same = torch.floor(z.lower / divisor) == torch.floor(z.upper / divisor)
    near = (z.lower / divisor - torch.round(z.lower / divisor)).abs() < 1e-6 * (1 + (z.largest / divisor).abs())
    ends = torch.remainder(z.lower, divisor), torch.remainder(z.upper, divisor)
    known = same & ~near
    low, high = torch.where(known, ends[0], least), torch.where(known, ends[1], most)
    return at.out(low, high, z.largest + abs(divisor))


def _sinc(at: Rounding, call: Rule, x: Any) -> Interval:
    middle, radius = real(x, at).centred
    # Its slope is below 1.371, its least value above -0.2173.
    low, high = (call(middle) + sign * 1.371 * radius for sign in (-1.0, 1.0))
    return at.out(low.nan_to_num(nan=-1.0).clamp(-0.2173, 1.0), high.nan_to_num(nan=1.0).clamp(-0.2173, 1.0), 16.0)


def _tangent(at: Rounding, call: Rule, x: Any) -> Interval:
    waves = [POINTWISE[name](at, getattr(torch.ops.aten, name).default, x) for name in ("sin", "cos")]
    return iv.divide(at, *waves)


def _norm(at: Rounding, call: Rule, x: Any, order: Any = 2, *args: Any, **kwargs: Any) -> Interval | None:
    if kwargs.get("dtype") not in (None, torch.float64) or isinstance(order, str) or (order is not None and order <= 0):
        return None
    z = _abs(at, real(x, at))
    low, high = call(z.lower, order, *args, **kwargs), call(z.upper, order, *args, **kwargs)
    found = at.out(low, high, ulps=64.0 + 4.0 * z.lower.numel() / max(1, low.numel()))
    return Interval(found.lower.clamp(min=0.0), found.upper)


def _distances(at: Rounding, call: Rule, x: Any, y: Any, order: float = 2.0, *_: Any) -> Interval | None:
    first = real(x, at).moved(lambda end: end[..., :, None, :])
    second = real(y, at).moved(lambda end: end[..., None, :, :])
    apart = iv.add(at, first, iv.negative(second))
    return _norm(at, torch.ops.aten.linalg_vector_norm.default, apart, order, (-1,))


def _product(at: Rounding, call: Rule, x: Any, dim: int | None = None, keepdim: bool = False, **named: Any) -> Any:
    """Products along a dimension, of all numbers or of those so far."""
    z = real(x, at)
    if dim is None or named.get("dtype") not in (None, torch.float64):
        return None
    parts, so_far = [z.moved(lambda end, k=k: end.select(dim, k)) for k in range(z.lower.shape[dim])], list[Interval]()  # type: ignore[misc]
    for part in parts:
        so_far.append(iv.multiply(at, so_far[-1], part) if so_far else part)
    if packet_of(call) == "prod":
        last = at.out(so_far[-1].lower, so_far[-1].upper, ulps=4.0 * len(parts))
        return last.moved(lambda end: end.unsqueeze(dim)) if keepdim else last
    return Interval(*(torch.stack([getattr(one, end) for one in so_far], dim) for end in ("lower", "upper")))


def _interpolated(at: Rounding, call: Rule, x: Any, share: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A quantile rises with every number."""
    z = real(x, at)
    if isinstance(share, Interval):
        return None
    low, high = (call(end, share, dim, *args, **kwargs) for end in (z.lower, z.upper))
    return at.out(low, high, float(z.largest.max()) if z.largest.numel() else 0.0)


def _summed_in_logarithms(at: Rounding, call: Rule, x: Any, dim: int) -> Interval:
    z = real(x, at)
    size = torch.where(torch.isinf(z.largest), 0.0, z.largest).amax(dim, keepdim=True)
    return at.out(call(z.lower, dim), call(z.upper, dim), size, 32.0 + z.lower.shape[dim])


def _both_extremes(at: Rounding, call: Rule, x: Any, **named: Any) -> Any:
    ends = [call(end, **named) for end in (real(x, at).lower, real(x, at).upper)]
    return [Interval(a, b) for a, b in zip(*ends, strict=True)]


def _without_nan(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
    z = real(x, at)
    if not bool(torch.isfinite(z.largest).all()):
        return None
    size = call(z.largest, *args, **kwargs)
    terms = z.lower.numel() / max(1, size.numel())
    return at.out(call(z.lower, *args, **kwargs), call(z.upper, *args, **kwargs), size, 16.0 + terms)


def _greater_of(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    first, second = real(x, at), real(y, at)
    return Interval(call(first.lower, second.lower), call(first.upper, second.upper))


def _times_logarithm(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    a, b = real(x, at), real(y, at)
    found = iv.multiply(at, a, at.out(torch.log(b.lower), torch.log(b.upper)))
    none = (a.lower <= 0) & (a.upper >= 0)  # 0 there, whatever y is
    return Interval(
        torch.where(none, found.lower.clamp(max=0.0), found.lower),
        torch.where(none, found.upper.clamp(min=0.0), found.upper),
    )


def _two_sided(at: Rounding, call: Rule, x: Any, y: Any, weight: Any, bias: Any = None) -> Interval:
    half = bilinear(at, lambda a, w: torch.einsum("...i,oij->...oj", a, w), real(x, at), real(weight, at))
    found = bilinear(at, lambda a, b: torch.einsum("...oj,...j->...o", a, b), half, real(y, at))
    return found if bias is None else iv.add(at, found, real(bias, at))


_MODES = {"bilinear": 0, "nearest": 1}


def _sampled(at: Rounding, call: Rule, x: Any, grid: Any, mode: int, padding: int, corners: bool) -> Interval | None:
    v, g = real(x, at), real(grid, at)
    if mode not in _MODES.values() or not bool(torch.isfinite(v.largest).all()):
        return None
    axes = tuple(range(2, v.lower.ndim))
    least, most = v.lower.amin(axes, keepdim=True), v.upper.amax(axes, keepdim=True)
    if padding == 0:
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)
    shape = (*v.lower.shape[:2], *g.lower.shape[1:-1])
    size = torch.maximum(least.abs(), most.abs()).expand(shape)
    whole = at.out(least.expand(shape), most.expand(shape), size)
    if mode != 0 or not bool(torch.isfinite(g.largest).all()):
        return whole
    middle, radius = g.centred
    centre, spread = v.centred
    value = call(centre, middle, mode, padding, corners)
    slack = spread.amax(axes, keepdim=True)
    around = centre if padding else torch.nn.functional.pad(centre, [1, 1] * len(axes))
    for number, axis in enumerate(reversed(axes)):
        length = centre.shape[axis]
        steep = around.diff(dim=axis).abs().amax(axes, keepdim=True) if around.shape[axis] > 1 else 0.0 * slack
        pixels = 0.5 * (length - 1 if corners else length)
        # The grid is rounded to pixels first.
        moved = radius[..., number] * pixels + 64.0 * at.unit * (1.0 + g.largest[..., number]) * (pixels + 1.0)
        slack = slack + steep * moved[:, None]
    return iv.met(whole, at.out(value - slack, value + slack, size + slack, 64.0))


def _is_a_number(at: Rounding, call: Rule, x: Any) -> Interval:
    z, name = real(x, at), packet_of(call)
    perhaps = torch.isinf(z.largest)
    return (
        Interval(~perhaps, torch.ones_like(perhaps))
        if name == "isfinite"
        else Interval(torch.zeros_like(perhaps), perhaps)
    )


def _counted(at: Rounding, call: Rule, x: Any, dim: Any = None, *_: Any) -> Interval | None:
    z = real(x, at)
    if dim is None:
        return None
    sure, possible = (z.lower > 0) | (z.upper < 0), (z.lower != 0) | (z.upper != 0)
    return Interval(sure.sum(dim), possible.sum(dim))


#: One entry for each of them.
SPECIAL: dict[str, Rule] = {
    **dict.fromkeys(("atan2", "arctan2"), _angle),
    "hypot": _hypotenuse,
    "copysign": _with_sign,
    "heaviside": _step,
    "threshold": _threshold,
    "remainder": _remainder,
    "sinc": _sinc,
    "tan": _tangent,
    **dict.fromkeys(("norm", "linalg_vector_norm"), _norm),
    "cdist": _distances,
    **dict.fromkeys(("prod", "cumprod"), _product),
    **dict.fromkeys(("quantile", "nanquantile"), _interpolated),
    "logcumsumexp": _summed_in_logarithms,
    "aminmax": _both_extremes,
    "nansum": _without_nan,
    **dict.fromkeys(("fmax", "fmin"), _greater_of),
    "xlogy": _times_logarithm,
    "bilinear": _two_sided,
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _sampled),
    **dict.fromkeys(("isfinite", "isinf", "isnan"), _is_a_number),
    "count_nonzero": _counted,
}
