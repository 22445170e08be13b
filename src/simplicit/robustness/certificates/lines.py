r"""Straight lines below and above an activation on an interval: the linear relaxation of one state.

For z in [l, u] and any slope k,

    k z + min(φ(t) - k t)  <=  φ(z)  <=  k z + max(φ(t) - k t),    both over t in [l, u],

so that every slope is sound and only the quality depends on it. The two extremes are found for every activation in the
same way: on points l = z₀ < … < z_g = u, the kinks of φ in [l, u] among them. Between two neighbours φ is smooth and
departs from its chord by at most (zᵢ₊₁ - zᵢ)² max|φ''| / 8; by nothing where φ is piecewise linear, for which the ends
and the kinks are enough. With k = 0 the extremes are those of φ itself.

The slopes. Upper and lower line run parallel to the chord, which is the best for the convex side of a convex φ and the
concave side of a concave one. Homogeneous φ (two half-lines that meet in 0: ReLU, leaky ReLU, abs) get on their other
side the half-line that cuts off the smaller area (for ReLU slope 1 if u > -l, else 0; Zhang et al., *Efficient Neural
Network Robustness Certification with General Activation Functions*, 2018), and any slope between the two may be put in
its place (Xu et al., *Fast and Complete: Enabling Complete Neural Network Verification*, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.implicit.groups import EVALUATION_ULPS, Activation
from simplicit.robustness.certificates.prepared import UNDERFLOW, unit_roundoff

# Intervals between the points for activations that are not piecewise linear: the extremes are then off by at most
# (u - l)² max|φ''| / 2048, a few ten thousandths for the widths that occur.
_INTERVALS = 16
# Below this width, relative to the size of z, a chord's slope is all rounding.
_NARROW = 1e-8


@dataclass(frozen=True)
class Lines:
    """For every z within the bounds that they were made for, low_slope z + low <= φ(z) <= high_slope z + high.

    All are tensors (m, s, n), with s = 1 where all of s functionals share them.
    """

    low_slope: Tensor
    low: Tensor
    high_slope: Tensor
    high: Tensor


def extremes(phi: Activation, lower: Tensor, upper: Tensor, slope: Tensor | float) -> tuple[Tensor, Tensor]:
    """Bound φ(z) - slope z over z in [lower, upper] from below and above, elementwise, rounding included.

    They are differentiable by the slope. Infinite ends give infinite or undefined extremes, which certify nothing.
    """
    points = _points(phi, lower, upper)
    values = phi(points) - points * slope
    slack = _slack(phi, lower, upper, slope)
    return values.amin(dim=0) - slack, values.amax(dim=0) + slack


def standard_slopes(phi: Activation, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of the lower and of the upper line, as the module's docstring says; all have one shape."""
    width = upper - lower
    narrow = ~(width > _NARROW * (1.0 + lower.abs() + upper.abs()))
    middle = phi.derivative(0.5 * lower + 0.5 * upper)
    chord = torch.where(narrow, middle, (phi(upper) - phi(lower)) / torch.where(narrow, torch.ones_like(width), width))
    # Infinite bounds leave nothing to be relaxed; any finite slope keeps what follows a number.
    chord = chord.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if not phi.homogeneous:
        return chord, chord
    left, right = phi.half_lines
    crossing = (lower < 0) & (upper > 0)
    straight = torch.where(lower >= 0, chord.new_tensor(right), chord.new_tensor(left))
    half_line = torch.where(crossing, torch.where(upper > -lower, right, left), straight)
    chord = torch.where(crossing, chord, straight)
    return (half_line, chord) if right >= left else (chord, half_line)


def _points(phi: Activation, lower: Tensor, upper: Tensor) -> Tensor:
    """Return where φ(z) - k z is evaluated: both ends, the kinks, and a grid for curved φ; (g + 1, *shape)."""
    kinks = [torch.minimum(torch.maximum(lower.new_tensor(kink), lower), upper) for kink in phi.kinks]
    if phi.curvature == 0.0:
        return torch.stack([lower, *kinks, upper])
    inner = [torch.lerp(lower, upper, number / _INTERVALS) for number in range(1, _INTERVALS)]
    return torch.stack([lower, *inner, *kinks, upper])


def _slack(phi: Activation, lower: Tensor, upper: Tensor, slope: Tensor | float) -> Tensor:
    """Return how far the extremes over the points may be from those over the interval: curvature, jump, rounding."""
    size = torch.maximum(lower.abs(), upper.abs())
    bend = phi.curvature * ((upper - lower) / _INTERVALS).square() / 8.0
    steepness = slope.abs() if isinstance(slope, Tensor) else abs(slope)
    offset = abs(float(phi(torch.zeros(1, dtype=torch.float64))))
    rounding: Tensor = EVALUATION_ULPS * unit_roundoff(lower.dtype) * (size * (steepness + 2.0 * phi.slope) + offset)
    return (1.0 + 1e-9) * bend + 2.0 * phi.jump + rounding + UNDERFLOW
