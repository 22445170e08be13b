r"""Interval images of operations along dimensions: sums, maxima, softmax.

A softmax has its extremes at vertices of the box,

    eˡⁱ / (eˡⁱ + Σ_{j≠i} e^{uⱼ})  <=  pᵢ  <=  e^{uᵢ} / (e^{uᵢ} + Σ_{j≠i} eˡʲ),

since pᵢ rises with its own score and falls with all others. The sums without one term are formed from both sides of it,
never as differences, so that a score far above the others costs no digits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.elementwise import Rule, ends_of, packet_of
from simplicit.implicit.groups.images.interval import Interval, Rounding, real

Dims = Any


def linear_rise(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Interval | None:
    """Return the image of a weighted sum with weights >= 0, as a mean or a pooling: both ends, and what sums lose."""
    if kwargs.get("dtype") not in (None, torch.float64):
        return None
    kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
    z = real(x, at)
    size = call(z.largest, *args, **kwargs)
    terms = z.lower.numel() / max(1, size.numel())
    return at.out(call(z.lower, *args, **kwargs), call(z.upper, *args, **kwargs), size, 16.0 + terms)


def cumulated(at: Rounding, call: Rule, x: Any, dim: int, dtype: Any = None) -> Interval | None:
    """Return the image of cumulated sums."""
    z = real(x, at)
    return at.out(call(z.lower, dim), call(z.upper, dim), call(z.largest, dim), 16.0 + z.lower.shape[dim])


def greatest(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the image of a maximum, a minimum, sorted values or the like: both ends; indices are not known."""
    if args and isinstance(args[0], Interval | Tensor):
        first, second = real(x, at), real(args[0], at)
        return Interval(call(first.lower, second.lower), call(first.upper, second.upper))
    z = real(x, at)
    low, high = call(z.lower, *args, **kwargs), call(z.upper, *args, **kwargs)
    if isinstance(low, Tensor):
        return Interval(low, high)
    return [Interval(low[0], high[0]), None]


def log_sum_exp(at: Rounding, call: Rule, x: Any, dim: Dims, keepdim: bool = False) -> Interval:
    """Return the image of log Σ exp."""
    z = real(x, at)
    low, high = call(z.lower, dim, keepdim), call(z.upper, dim, keepdim)
    largest = torch.where(torch.isinf(z.largest), 0.0, z.largest)
    return at.out(low, high, torch.amax(largest, dim, keepdim), 32.0 + z.lower.numel() / max(1, low.numel()))


def variance(
    at: Rounding, call: Rule, x: Any, dim: Dims = None, second: Any = None, keepdim: bool = False, **named: Any
) -> Interval | None:
    """Return the image of a variance, by dim and correction, or the older flag ``unbiased`` in its place."""
    if isinstance(dim, bool) or "unbiased" in named:
        return None
    if isinstance(second, bool):
        named["correction"] = float(second)
    z = real(x, at)
    axes = tuple(range(z.lower.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(z.lower.shape[axis] for axis in axes)
    correction = named.get("correction", 1.0)
    degrees = count - (1.0 if correction is None else correction)
    if degrees <= 0:
        return None
    parts = iv.square(at, deviations(at, z, axes))
    total = parts.moved(lambda end: end.sum(axes, keepdim=named.get("keepdim", keepdim)) / degrees)
    found = at.out(total.lower, total.upper, ulps=32.0 + count)
    return Interval(found.lower.clamp(min=0.0), found.upper)


def deviations(at: Rounding, z: Interval, axes: tuple[int, ...]) -> Interval:
    """Return xᵢ - mean = (1 - 1/n) xᵢ - Σ_{j≠i} xⱼ / n, in which every number is used once."""
    n = math.prod(z.lower.shape[axis] for axis in axes)
    low = z.lower - (z.upper.sum(axes, keepdim=True) - z.upper + z.lower) / n
    high = z.upper - (z.lower.sum(axes, keepdim=True) - z.lower + z.upper) / n
    return at.out(low, high, z.largest.amax(axes, keepdim=True), 32.0 + 2.0 * n)


def _deviation(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Interval | None:
    found = variance(at, call, x, *args, **kwargs)
    return None if found is None else at.out(found.lower.sqrt(), found.upper.sqrt())


def _with_mean(rule: Rule) -> Rule:
    def both(at: Rounding, call: Rule, x: Any, dim: Dims = None, *args: Any, **kwargs: Any) -> Any:
        if dim is None or isinstance(dim, bool):
            return None
        keepdim = kwargs.get("keepdim", False)
        return [rule(at, call, x, dim, *args, **kwargs), linear_rise(at, torch.mean, x, dim, keepdim=keepdim)]

    return both


def softmax(at: Rounding, call: Rule, x: Any, dim: int, *_: Any) -> Interval:
    """Return the image of a softmax; scores of -∞ on both ends are masked, on the lower one perhaps."""
    z = real(x, at)
    # A row without any score is NaN in softmax, and 0 in torch's safe one.
    empty = torch.isneginf(z.lower).all(dim, keepdim=True)
    peak = _peak(z, dim)
    low, high = torch.exp(z.lower - peak), torch.exp(z.upper - peak)
    found = at.out(low / (low + _others(high, dim)), high / (high + _others(low, dim)), ulps=_softmax_ulps(z, dim))
    # Where nothing else is known: probabilities, up to the rounding of their sum.
    most = 1.0 + (32.0 + z.lower.shape[dim]) * at.unit
    lower, upper = found.lower.clamp(min=0.0), found.upper.clamp(max=most)
    if packet_of(call) == "_safe_softmax":
        return Interval(torch.where(empty, 0.0, lower), upper)
    return Interval(torch.where(empty, -math.inf, lower), torch.where(empty, math.inf, upper))


def log_softmax(at: Rounding, call: Rule, x: Any, dim: int, *_: Any) -> Interval:
    """Return the image of log softmax: -log(1 + Σ_{j≠i} e^{zⱼ - zᵢ}) at the same vertices."""
    z = real(x, at)
    peak = _peak(z, dim)
    low, high = z.lower - peak, z.upper - peak
    lower = low - torch.logaddexp(low, _others(high.exp(), dim).log())
    upper = high - torch.logaddexp(high, _others(low.exp(), dim).log())
    ulps = _softmax_ulps(z, dim)
    found = at.out(lower - ulps * at.unit, upper + ulps * at.unit, z.largest, 32.0)
    return Interval(found.lower, torch.minimum(found.upper, (ulps * at.unit).expand_as(found.upper)))


def _peak(z: Interval, dim: int) -> Tensor:
    peak = z.upper.amax(dim, keepdim=True)
    return torch.where(torch.isneginf(peak), 0.0, peak)


def _others(parts: Tensor, dim: int) -> Tensor:
    """Return the sums of all terms but one along a dimension."""
    zero = torch.zeros_like(parts.narrow(dim, 0, 1))
    before = torch.cat([zero, parts.narrow(dim, 0, parts.shape[dim] - 1)], dim).cumsum(dim)
    after = torch.cat([parts.narrow(dim, 1, parts.shape[dim] - 1), zero], dim).flip(dim).cumsum(dim).flip(dim)
    return before + after


def _softmax_ulps(z: Interval, dim: int) -> Tensor:
    """Return the units in the last place of a probability: those of the sum, and those of the scores as exponents."""
    sizes = torch.where(torch.isinf(z.largest), 0.0, z.largest)
    return 32.0 + z.lower.shape[dim] + 8.0 * sizes.amax(dim, keepdim=True)


def _truths(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Interval | None:
    if not isinstance(x, Interval) or x.lower.dtype != torch.bool:
        return None
    sure, possible = ends_of(x)
    return Interval(call(sure, *args, **kwargs), call(possible, *args, **kwargs))


#: One entry for each operation along dimensions.
REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "sum",
            "mean",
            "avg_pool1d",
            "avg_pool2d",
            "avg_pool3d",
            "adaptive_avg_pool1d",
            "adaptive_avg_pool2d",
            "adaptive_avg_pool3d",
            "_adaptive_avg_pool2d",
            "upsample_nearest1d",
            "upsample_nearest2d",
            "upsample_nearest3d",
            "upsample_bilinear2d",
            "upsample_linear1d",
            "upsample_trilinear3d",
        ],
        linear_rise,
    ),
    **dict.fromkeys(
        [
            "amax",
            "amin",
            "cummax",
            "cummin",
            "max_pool1d",
            "max_pool2d",
            "max_pool3d",
            "max_pool1d_with_indices",
            "max_pool2d_with_indices",
            "max_pool3d_with_indices",
            "adaptive_max_pool1d",
            "adaptive_max_pool2d",
            "adaptive_max_pool3d",
        ],
        greatest,
    ),
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), log_softmax),
    **dict.fromkeys(("any", "all"), _truths),
    "logsumexp": log_sum_exp,
    "cumsum": cumulated,
    "var": variance,
    "std": _deviation,
    "var_mean": _with_mean(variance),
    "std_mean": _with_mean(_deviation),
}
