r"""Interval images of norms: y = d / √(mean d² + ε), with d = x - mean x, or d = x for an RMS norm.

With R = Σ_{j≠i} dⱼ² / n the i-th number is dᵢ / √(dᵢ²/n + R + ε). It rises with dᵢ and shrinks with R, so that the ends
of dᵢ with those of R bound it. As Σ dⱼ = 0 for a layer norm, the others sum to -dᵢ, and by Cauchy and Schwarz

    R >= dᵢ² / (n (n - 1)),   hence   |yᵢ| <= |dᵢ| / √(dᵢ²/n + dᵢ²/(n (n - 1))) = √(n - 1),

which holds whatever the box. dᵢ / √(dᵢ²/n + max(R₀, dᵢ²/(n (n - 1))) + ε) rises with dᵢ, too: it is the smaller in size
of two functions that rise.

Rounding. A mean of n numbers errs by n u max|x|, and so does every d; what that does to y is given up, and n u of y.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.elementwise import Rule
from simplicit.implicit.groups.images.interval import Interval, Rounding, real
from simplicit.implicit.groups.images.reductions import deviations


def normalised(at: Rounding, z: Interval, eps: tuple[float, float], centred: bool) -> Interval:
    """Return the image of a norm over the last dimension, for ε between two numbers."""
    n = z.lower.shape[-1]
    d = deviations(at, z, (-1,)) if centred else z
    squares = iv.square(at, d)
    rest_low = (squares.lower.sum(-1, keepdim=True) - squares.lower).clamp(min=0.0) / n
    rest_high = (squares.upper.sum(-1, keepdim=True) - squares.upper) / n
    # A difference of sums loses units of the whole sum.
    slack = (32.0 + n) * 2.0**-52
    rest_low = (rest_low - slack * squares.lower.sum(-1, keepdim=True) / n).clamp(min=0.0)
    rest_high = rest_high + slack * squares.upper.sum(-1, keepdim=True) / n

    def share(end: Tensor, far: Tensor, near: Tensor, sign: float) -> Tensor:
        """The bound for d at one end: with the largest R where it has this sign, else with the smallest."""
        least = torch.maximum(near, end.square() / (n * (n - 1))) if centred and n > 1 else near
        shrinking = end * sign >= 0
        whole = torch.where(shrinking, far, least) + end.square() / n
        return end / torch.sqrt(torch.where(shrinking, whole + eps[1], whole + eps[0]))

    lower, upper = share(d.lower, rest_high, rest_low, 1.0), share(d.upper, rest_high, rest_low, -1.0)
    cap = math.sqrt(max(0, n - 1) if centred else n)
    lower, upper = lower.nan_to_num(nan=-cap, neginf=-cap), upper.nan_to_num(nan=cap, posinf=cap)
    return _rounded(at, z, Interval(lower.clamp(-cap, cap), upper.clamp(-cap, cap)), squares, eps[0])


def _rounded(at: Rounding, z: Interval, found: Interval, squares: Interval, eps: float) -> Interval:
    n = z.lower.shape[-1]
    delta = (32.0 + 2.0 * n) * at.unit * z.largest.amax(-1, keepdim=True)
    spread = squares.lower.mean(-1, keepdim=True) * (1.0 - 1e-9) + eps
    relative = (64.0 + 2.0 * n) * at.unit + (delta.square() / spread)
    margin = delta / spread.sqrt() + relative * found.largest + at.tiny
    return at.checked(found.lower - margin, found.upper + margin)


def _affine(at: Rounding, z: Interval, weight: Any, bias: Any) -> Interval:
    z = z if weight is None else iv.multiply(at, z, real(weight, at))
    return z if bias is None else iv.add(at, z, real(bias, at))


def layer_norm(
    at: Rounding, call: Rule, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Interval:
    """Return the image of a layer norm."""
    z = real(x, at)
    flat = z.moved(lambda end: end.flatten(-len(shape)))
    found = normalised(at, flat, (eps, eps), centred=True).moved(lambda end: end.reshape(z.lower.shape))
    return _affine(at, found, weight, bias)


def rms_norm(
    at: Rounding, call: Rule, x: Any, shape: Any, weight: Any = None, eps: float | None = None, *_: Any
) -> Interval:
    """Return the image of an RMS norm; without ε it is the resolution of the dtype, of either one."""
    z = real(x, at)
    flat = z.moved(lambda end: end.flatten(-len(shape)))
    ends = (2.0**-52, 2.0**-23) if eps is None else (eps, eps)
    found = normalised(at, flat, ends, centred=False).moved(lambda end: end.reshape(z.lower.shape))
    return _affine(at, found, weight, None)


def group_norm(
    at: Rounding, call: Rule, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Interval:
    """Return the image of a group norm, whose weights are by channels."""
    z = real(x, at)
    flat = z.moved(lambda end: end.reshape(len(end), groups, -1))
    found = normalised(at, flat, (eps, eps), centred=True).moved(lambda end: end.reshape(z.lower.shape))

    def by_channel(values: Any) -> Any:
        spread = (1, -1, *[1] * (z.lower.ndim - 2))
        return None if values is None else real(values, at).moved(lambda end: end.reshape(spread))

    return _affine(at, found, by_channel(weight), by_channel(bias))


def instance_norm(
    at: Rounding,
    call: Rule,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    own: bool,
    _: float,
    eps: float,
    *__: Any,
) -> Interval | None:
    """Return the image of an instance norm by its own statistics: a group for every channel."""
    return group_norm(at, call, x, real(x, at).lower.shape[1], weight, bias, eps) if own else None


def _native_group_norm(
    at: Rounding, call: Rule, x: Any, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> Any:
    return [group_norm(at, call, x, groups, weight, bias, eps), None, None]


#: One entry for each norm.
NORMS: dict[str, Rule] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "native_layer_norm": lambda *args: [layer_norm(*args), None, None],
    "native_group_norm": _native_group_norm,
    "_fused_rms_norm": lambda *args: [rms_norm(*args), None],
}
