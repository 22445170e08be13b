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
only the worst, for which the step is sure to descend. So in exact arithmetic no pattern comes twice and the method
ends, whatever the rank of Φ; plain "drop the flipped, add the violated" cycles where G is singular. Rounding is dealt
with in ``block``, which keeps no step that raises the objective.

Two things keep a singular G_AA harmless. A tiny proximal term δ·diag(G), centred at the current point, makes it
factorisable without moving the fixed point. And with m samples and a tight ball a solution can have m + 1 non-zeros, so
that only the ball makes it unique; there G_AA + σaaᵀ is factorised, which has the same solutions on aᵀw = κ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from simplicit.rows.ball import shrink_into_ball

__all__ = ["RowQuadratic", "minimise_on_pattern"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

#: Relative size of the proximal term; multiplied by 100 until the factorisation succeeds.
PROXIMAL = 1e-12
#: Fractions of the way to w* that are tried, beside those at which the first columns reach zero.
STEPS = np.array([0.25, 0.5, 1.0])
QUANTILES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0])
#: Share of columns that may leave before what is left is factorised anew: the small systems grow with them.
HELD_SHARE = 1 / 3


@dataclass(frozen=True)
class RowQuadratic:
    """One row, ½wᵀGw − cᵀw + Σ pⱼ|wⱼ| with ‖w_J‖₁ ≤ κ."""

    gram: Array  # G, (k, k)
    slope: Array  # p, (k,); infinite off the support
    in_ball: Array  # 1 on J, else 0, (k,)
    radius: float  # κ


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
        Feasible; up to rounding the objective is not above that of the input.
    multiplier : float
        μ/(2λ) of the ball. Negative if the ball was taken as tight and should be left: the next call does.
    """
    columns = np.concatenate([np.flatnonzero(w), entering])
    at_radius = float(np.abs(w) @ row.in_ball) >= row.radius * (1 - 1e-9)
    tight = multiplier > 0 or (multiplier == 0 and at_radius)
    result, mu = np.zeros_like(w), 0.0
    current, gradient = w[columns], gradient[columns]
    signs = np.where(current != 0, np.sign(current), np.sign(gradient))
    while len(columns):
        face = _Face(row, columns, signs, current, gradient, tight=tight)
        settled, mu = face.descend()
        if settled:
            result[columns] = face.current
            break
        stay = ~face.held
        gradient = face.gradient()[stay]
        columns, signs, current = columns[stay], signs[stay], face.current[stay]
    inside = row.in_ball > 0
    result[inside] = shrink_into_ball(result[inside], row.radius)
    return result, mu


@dataclass
class _Face:
    """A set A of columns with fixed signs, factorised, and a point on it that descends."""

    row: RowQuadratic
    columns: Index  # A
    signs: Array
    start: Array  # w⁰_A
    start_gradient: Array  # c − Gw⁰ on A
    tight: bool  # the ball holds with equality
    current: Array = field(init=False)
    held: Mask = field(init=False)  # what has left A, at zero

    def __post_init__(self) -> None:
        size, k = len(self.columns), len(self.row.slope)
        self.current, self.held = self.start.copy(), np.zeros(size, dtype=bool)
        self.gram = self.row.gram.reshape(-1).take(self.columns[:, None] * k + self.columns)
        self.slope, self.ball = self.row.slope[self.columns], self.row.in_ball[self.columns]
        self.normal = self.signs * self.ball  # a
        self.sigma = float(self.gram.diagonal().max()) if self.tight else 0.0
        right = np.stack([self.start_gradient - self.slope * self.signs, self.normal], axis=1)
        self.factor, solved = self._factorise(right)
        self.newton, self.along_ball = solved[:, 0].copy(), solved[:, 1].copy()  # q₁, q₂
        self.order = np.zeros(0, dtype=np.intp)  # D, in the order of leaving
        self.inverse = np.zeros((size, 0))  # Q = G_AA⁻¹E_D

    def _factorise(self, right: Array) -> tuple[torch.Tensor, Array]:
        matrix = self.gram + self.sigma * np.outer(self.normal, self.normal) if self.tight else self.gram
        diagonal, proximal = matrix.diagonal().copy(), PROXIMAL
        shifted = torch.from_numpy(matrix.copy())
        while True:
            shifted.diagonal().copy_(torch.from_numpy(diagonal * (1 + proximal)))
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not int(failed):
                solved = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
                # From proximal 1 on the matrix is far from singular: what is not finite then was not on entry.
                if proximal > 1 or np.isfinite(solved).all():
                    return factor, solved
            proximal *= 100

    def gradient(self) -> Array:
        """c − Gw on A at the current point."""
        return self.start_gradient - self.gram @ (self.current - self.start)

    def descend(self) -> tuple[bool, float]:
        """Go to the minimiser with all signs right, columns that flip leaving on the way.

        Returns whether it was reached, and μ; where too many columns have left, it stops before, to be factorised anew.
        """
        while True:
            try:
                target, mu = self._minimiser()
            except np.linalg.LinAlgError:  # the columns that left are dependent up to rounding: factorise without them
                return False, 0.0
            flipped = (target * self.signs <= 0) & ~self.held
            if not flipped.any():
                self.current = target
                return True, mu
            self._step(target, flipped)
            if self.held.sum() > HELD_SHARE * len(self.held):
                return False, mu

    def _minimiser(self) -> tuple[Array, float]:
        """The minimiser on A with D at zero, and the multiplier of the ball."""
        free, ball = self.start + self.newton, self.along_ball
        if len(self.order):
            block = self.inverse[self.order]
            nu = np.linalg.solve(block, np.stack([free[self.order], ball[self.order]], axis=1))
            free, ball = free - self.inverse @ nu[:, 0], ball - self.inverse @ nu[:, 1]
        excess, curvature = float(self.normal @ free) - self.row.radius, float(self.normal @ ball)
        mu = 0.0
        # Without a free column in J, or along a direction that the rounding has eaten, the ball has nothing to say.
        if (excess > 0 or self.tight) and curvature > 1e-12 * abs(float(self.normal @ self.along_ball)):
            mu = excess / curvature
            free = free - mu * ball
            mu += self.sigma * float(self.normal @ (free - self.start))
        free[self.held] = 0.0
        return free, mu

    def _step(self, target: Array, flipped: Mask) -> None:
        """Move to the best of some points on the way; the columns that reached zero there leave."""
        points = _candidates(self.current, target, flipped, self.ball, self.row.radius)
        shift = points - self.start
        # Along a null direction of G_AA the target is far away; a value that overflows is simply not chosen.
        with np.errstate(over="ignore", invalid="ignore"):
            change = (
                0.5 * np.einsum("ij,ij->i", shift, shift @ self.gram)
                - shift @ self.start_gradient
                + np.abs(points) @ self.slope
            )
        best = int(np.argmin(np.nan_to_num(change, nan=np.inf)))
        # The first candidate stops at the first flip: descent is certain there, whatever the rounding says of others.
        self.current = points[best] if change[best] < change[0] else points[0]
        leaving = np.flatnonzero(flipped & (self.current == 0))
        self.held[leaving] = True
        unit = torch.zeros(len(self.start), len(leaving), dtype=torch.float64)
        unit[torch.from_numpy(leaving), torch.arange(len(leaving))] = 1.0
        self.order = np.concatenate([self.order, leaving])
        self.inverse = np.concatenate([self.inverse, torch.cholesky_solve(unit, self.factor).numpy()], axis=1)


def _candidates(current: Array, target: Array, flipped: Mask, ball: Array, radius: float) -> Array:
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
