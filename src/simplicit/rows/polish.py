r"""Active-set polish of one row: exact on a sign pattern, and every step descends.

On a set A of columns with fixed signs s the row problem is the quadratic programme

    min ½wᵀGw − cᵀw + Σ_A pⱼsⱼwⱼ   s.t.  aᵀw ≤ κ,   aⱼ = sⱼ on A∩J, else 0,         p = h'(0+)/(2λ)

Its minimiser w* needs one factorisation of G_AA and two right-hand sides (the second for the multiplier μ of the ball).
The current w is feasible for it, so w* − w descends, and it descends the row's objective itself up to the first sign
that flips. There the column leaves A. Leaving is a low-rank change: with Q = G_AA⁻¹E_D for the columns D that left,
w* = w⁰ + q₁ − μq₂ − Qν costs one triangular solve per column, not a new factorisation. Longer steps, which set several
columns to zero at once, are tried first and taken when they descend further.

When all signs hold, w is the exact minimiser on its pattern. The rounds of ``block`` then let in the columns that
violate the optimality condition |gradient| ≤ p + μ[j∈J]: all of them, or, should that not have lowered the objective,
only the worst, for which the step is sure to descend. No pattern comes twice, so the method ends, whatever the rank of
Φ: this is what plain "drop the flipped, add the violated" lacks, which cycles where G is singular.

Two things keep a singular G_AA harmless. A tiny proximal term δ·diag(G), centred at the current point, makes it
factorisable without moving the fixed point. And with m samples and a tight ball a solution can have m + 1 non-zeros, so
that only the ball makes it unique; there G_AA + σaaᵀ is factorised, which has the same solutions on aᵀw = κ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from simplicit.rows.ball import shrink_into_ball

__all__ = ["RowQuadratic", "minimise_on_pattern"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Relative size of the proximal term; multiplied by 100 until the factorisation succeeds.
PROXIMAL = 1e-12
#: Fractions of the way to w* that are tried, beside those at which the first columns reach zero.
STEPS = np.array([0.25, 0.5, 1.0])
QUANTILES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0])


@dataclass(frozen=True)
class RowQuadratic:
    """One row, ½wᵀGw − cᵀw + Σ pⱼ|wⱼ| with ‖w_J‖₁ ≤ κ."""

    gram: Array  # G, (k, k)
    slope: Array  # p, (k,); infinite off the support
    in_ball: Array  # 1 on J, else 0, (k,)
    radius: float  # κ


@dataclass
class _Pattern:
    """G_AA factorised, and the exact minimiser on A with any columns of A held at zero."""

    start: Array  # w⁰_A, where the gradient below holds
    newton: Array  # q₁ = G_AA⁻¹(gradient − p s)
    ball: Array  # q₂ = G_AA⁻¹a
    normal: Array  # a
    factor: torch.Tensor
    radius: float
    tight: float  # σ > 0 where σaaᵀ was added and the ball holds with equality, else 0

    def columns_of_inverse(self, which: Index) -> Array:
        """G_AA⁻¹E for the given positions, (|A|, len(which))."""
        unit = torch.zeros(len(self.start), len(which), dtype=torch.float64)
        unit[torch.from_numpy(which), torch.arange(len(which))] = 1.0
        solved: Array = torch.cholesky_solve(unit, self.factor).numpy()
        return solved

    def minimiser(self, held: Index, inverse: Array) -> tuple[Array, float]:
        """The minimiser with the positions ``held`` at zero, and the multiplier of the ball."""
        free = self.start + self.newton
        nu = np.linalg.solve(inverse[held], free[held]) if len(held) else np.zeros(0)
        w = free - inverse @ nu
        excess = float(self.normal @ w) - self.radius
        if excess <= 0 and not self.tight:
            return w, 0.0
        ball = self.ball
        if len(held):
            ball = ball - inverse @ np.linalg.solve(inverse[held], ball[held])
        curvature = float(self.normal @ ball)
        mu = excess / max(curvature, np.finfo(float).tiny)
        w = w - mu * ball
        return w, mu + self.tight * float(self.normal @ (w - self.start))


def _factorise(
    row: RowQuadratic, active: Index, signs: Array, start: Array, gradient: Array, tight: bool
) -> tuple[_Pattern, Array]:
    gram = np.ascontiguousarray(row.gram[active][:, active])
    normal = signs * row.in_ball[active]
    sigma = float(gram.diagonal().max()) if tight else 0.0
    augmented = gram + sigma * np.outer(normal, normal) if tight else gram
    right = np.stack([gradient[active] - row.slope[active] * signs, normal], axis=1)
    proximal = PROXIMAL
    while True:
        shifted = torch.from_numpy(augmented.copy())
        shifted.diagonal().mul_(1 + proximal)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        solved = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
        if not int(failed) and np.isfinite(solved).all():
            break
        proximal *= 100
    pattern = _Pattern(start, solved[:, 0].copy(), solved[:, 1].copy(), normal, factor, row.radius, sigma)
    return pattern, gram


def minimise_on_pattern(
    row: RowQuadratic, w: Array, gradient: Array, entering: Index, multiplier: float
) -> tuple[Array, float]:
    """Descend from ``w`` to the exact minimiser on a subset of its own pattern plus ``entering``.

    Parameters
    ----------
    row : RowQuadratic
    w : (k,) array
        A feasible point.
    gradient : (k,) array
        c − Gw there.
    entering : index array
        Columns at zero that may move, in the direction of their gradient.
    multiplier : float
        What the last call returned, 0 at first.

    Returns
    -------
    w : (k,) array
        Feasible; the objective is not above that of the input.
    multiplier : float
        μ/(2λ) of the ball. Negative if the ball was taken as tight and should be left: the next call does.
    """
    active = np.concatenate([np.flatnonzero(w), entering])
    if not len(active):
        return w, 0.0
    current = w[active]
    signs = np.where(current != 0, np.sign(current), np.sign(gradient[active]))
    slope, ball = row.slope[active], row.in_ball[active]
    at_radius = float(np.abs(current) @ ball) >= row.radius * (1 - 1e-9)
    tight = multiplier > 0 or (multiplier == 0 and at_radius)
    pattern, gram = _factorise(row, active, signs, current.copy(), gradient, tight)
    held = np.zeros(0, dtype=np.intp)
    inverse = np.zeros((len(active), 0))
    linear = gradient[active]

    while True:
        target, mu = pattern.minimiser(held, inverse)
        target[held] = 0.0
        flipped = target * signs <= 0
        flipped[held] = False
        if not flipped.any():
            break
        candidates = _candidates(current, target, flipped, ball, row.radius)
        shift = candidates - pattern.start
        # Along a null direction of G_AA the target is far away; a value that overflows is simply not chosen.
        with np.errstate(over="ignore", invalid="ignore"):
            change = 0.5 * np.einsum("ij,ij->i", shift, shift @ gram) - shift @ linear + np.abs(candidates) @ slope
        best = int(np.argmin(np.nan_to_num(change, nan=np.inf)))
        # The first candidate stops at the first flip: descent is certain there, whatever the rounding says of others.
        current = candidates[best] if change[best] < change[0] else candidates[0]
        leaving = np.flatnonzero(flipped & (current == 0))
        held = np.concatenate([held, leaving])
        if len(held) == len(active):
            target, mu = np.zeros_like(current), 0.0
            break
        inverse = np.concatenate([inverse, pattern.columns_of_inverse(leaving)], axis=1)

    result = np.zeros_like(w)
    result[active] = target
    inside = row.in_ball > 0
    result[inside] = shrink_into_ball(result[inside], row.radius)
    return result, mu


def _candidates(current: Array, target: Array, flipped: Index, ball: Array, radius: float) -> Array:
    """Points on the way from ``current`` to ``target``, columns that flip stopped at zero, back in the ball.

    The first one ends at the first flip.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(flipped, current / (current - target), np.inf)
    reach[flipped & (current == 0)] = 0.0
    first = reach.min()
    flips = np.sort(reach[flipped])
    steps = np.concatenate([flips[(QUANTILES * (len(flips) - 1)).astype(int)], STEPS])
    steps = np.concatenate([[first], steps[steps > first]])[:, None]
    points = current + steps * (target - current)
    points[reach <= steps * (1 + 1e-12)] = 0.0
    norms = np.abs(points) @ ball
    outside = norms > radius
    points[outside] *= np.where(ball > 0, (radius / np.maximum(norms, radius))[outside, None], 1.0)
    return points
