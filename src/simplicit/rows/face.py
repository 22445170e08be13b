r"""The minimiser of one row on a face: a set of columns with fixed signs, and what changes of it cost.

On the columns A with signs s, near a point w⁰ with gradient g⁰ = Φᵀ(z − Φw⁰), the row problem is the quadratic
programme

    min over Δ of ½Δᵀ(G + C)Δ − (g⁰ − s·h'(w⁰))ᵀΔ   s.t.  aᵀ(w⁰ + Δ) ≤ κ,   aⱼ = sⱼ·(weight of the ball) on J, else 0

with C the curvature of the penalty on the piece where w⁰ lies. Its minimiser needs one factorisation of G_AA + C and
two right-hand sides, the second for the multiplier μ of the ball.

Columns that enter (E) or leave (D, held at zero by a multiplier ν) do not ask for a new factorisation: they border it,

    [ G_AA + C   U ] [Δ_A     ]        U = [G_AE, I_D],     t = (Δ_E, ν),
    [ Uᵀ         K ] [t       ]        K = G_EE + C_E on E, 0 on D,

and with V = (G_AA + C)⁻¹U only the small Schur complement K − UᵀV is factorised anew. That is the Schur-complement
active-set method (Gill, Murray, Saunders and Wright 1990).

With m samples and a tight ball a solution can have m + 1 non-zeros, so that only the ball makes it unique. There G +
σaaᵀ takes the place of G, which has the same solutions on aᵀw = κ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simplicit.rows.design import Design
from simplicit.rows.factor import factorise

__all__ = ["Face", "Row"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

#: Share of columns that may enter or leave before what is left is factorised anew: the small systems grow with them.
CHANGED_SHARE = 1 / 3
#: How far, relatively, a minimiser may be from stationary before its factorisation counts as worn.
STATIONARY = 1e-7


@dataclass(frozen=True)
class Row:
    """One row problem; arrays (k,)."""

    design: Design
    kink: Array  # p
    curvature: Array  # c
    threshold: Array  # τ
    ball: Array  # the weight a of the ball on J, 0 elsewhere
    radius: float  # κ

    @cached_property
    def bends(self) -> bool:
        """Whether a coefficient away from zero can pass to another piece of the penalty."""
        return bool(((self.threshold > 0) & (self.curvature > 0)).any())

    def slopes(self, columns: Index, w: Array) -> tuple[Array, Array]:
        """|h'| and h'' at w on some columns, as the right derivatives in |w|."""
        curvature, threshold = self.curvature[columns], self.threshold[columns]
        beyond = np.abs(w) - threshold
        return self.kink[columns] + curvature * np.maximum(beyond, 0.0), np.where(beyond >= 0, curvature, 0.0)

    def priced(self, columns: Index, points: Array) -> Array:
        """Σ h on some columns at every row of ``points`` (q, n)."""
        size = np.abs(points)
        value = size @ self.kink[columns]
        curvature = self.curvature[columns]
        if curvature.any():
            beyond = np.maximum(size - self.threshold[columns], 0.0)
            value += 0.5 * (beyond * beyond) @ curvature
        return np.asarray(value)


class Face:
    """A factorised set of columns, the columns that entered and left since, and a point that moves on it.

    Parameters
    ----------
    row : Row
    columns : index array
        A.
    w, gradient : (n,) arrays
        The point w⁰ and g⁰ on A.
    signs : (n,) array
        s, ±1, those of w where it is not zero.
    tight : bool
        Whether the ball holds with equality.
    """

    def __init__(self, row: Row, columns: Index, w: Array, gradient: Array, signs: Array, *, tight: bool) -> None:
        self.row, self.tight = row, tight
        self.columns, self.signs = columns, signs  # A, then E
        self.n_base = len(columns)
        self.slope, self.bend = row.slopes(columns, w)
        self.ball = row.ball[columns]
        normal = signs * self.ball
        sigma = 1 / float(np.square(normal).max()) if tight and normal.any() else 0.0
        self.factor = factorise(row.design, columns, self.bend, sigma, normal)
        self.sigma = self.factor.sigma
        self.kinked = self._kinked(columns)
        self.held = np.zeros(self.n_base, dtype=bool)  # D among A; always False on E
        self.dropped = np.zeros(0, dtype=np.intp)  # D, in the order of its columns of V
        self.border = np.zeros((self.n_base, 0))  # G_AE
        self.corner = np.zeros((0, 0))  # G_EE
        self.solved_entered = np.zeros((self.n_base, 0))  # (G_AA + C)⁻¹G_AE
        self.solved_dropped = np.zeros((self.n_base, 0))  # (G_AA + C)⁻¹I_D
        self._begin(w, gradient)
        self.solved = self.factor.solve(self.right)

    def _begin(self, w: Array, gradient: Array) -> None:
        """Take ``w`` and its gradient, on A and E, as the point w⁰."""
        self.start, self.current, self.settled = w, w.copy(), False
        self.normal = self.signs * self.ball
        self.right = np.stack([gradient - self.signs * self.slope, self.normal], axis=1)

    def _kinked(self, columns: Index) -> Mask:
        """Where the objective has a kink at zero, so that a coefficient stops there."""
        return np.asarray((self.row.kink[columns] > 0) | (self.row.ball[columns] > 0))

    @property
    def changes(self) -> int:
        return len(self.columns) - self.n_base + len(self.dropped)

    @property
    def worn(self) -> bool:
        """Whether so much has changed that a new factorisation is cheaper."""
        return self.changes > max(8, CHANGED_SHARE * self.n_base)

    def restart(self, w: Array, gradient: Array, entering: Index, mu: float) -> bool:
        """Go on from ``w`` (k,) with ``gradient`` (k,), let columns enter; False if this needs another face.

        It does when the point is not on the face, when the piece of the penalty or a sign that the factorisation knows
        has changed, when too many columns have, or when these changes have cost digits: the point, a minimiser with
        multiplier ``mu`` of the ball, should be stationary, and something should want to enter.
        """
        free, base = ~self.held, slice(0, self.n_base)
        on_face = self.columns[free]
        if self.worn or np.count_nonzero(w) != len(on_face) or not w[on_face].all():
            return False
        signs = np.where(self.held, self.signs, np.sign(w[self.columns]))
        back = np.isin(self.columns, entering) & self.held
        signs[back] = np.sign(gradient[self.columns[back]])
        turned = bool((signs != self.signs)[base][self.ball[base] > 0].any())
        slope, bend = self.row.slopes(self.columns, w[self.columns])
        if (turned and self.sigma > 0) or (bend != self.bend)[free].any():
            return False
        self.signs, self.slope = signs, slope
        if self.changes and not (len(entering) and self._stationary(gradient[on_face], free, mu)):
            return False
        # At a minimiser the right-hand side is μa but for what is held, whose columns of V are at hand.
        known = self.settled and not turned and len(entering) > 0
        self._begin(w[self.columns], gradient[self.columns])
        if known:
            held = self.right[self.dropped]
            self.solved[:, 0] = mu * self.solved[:, 1] + self.solved_dropped @ (held[:, 0] - mu * held[:, 1])
        else:
            self.solved = self.factor.solve(self.right[base])
        self._release(np.flatnonzero(back))
        self._enter(np.setdiff1d(entering, self.columns[base], assume_unique=True), gradient)
        return True

    def _stationary(self, gradient: Array, free: Mask, mu: float) -> bool:
        wanted = self.signs[free] * (self.slope[free] + mu * self.ball[free])
        return bool(np.abs(gradient - wanted).max(initial=0.0) <= STATIONARY * np.abs(wanted).max(initial=0.0))

    def _release(self, positions: Index) -> None:
        """Let columns of A that were held at zero move again."""
        keep = ~np.isin(self.dropped, positions)
        self.dropped, self.solved_dropped = self.dropped[keep], self.solved_dropped[:, keep]
        self.held[positions] = False

    def _enter(self, entering: Index, gradient: Array) -> None:
        if not len(entering):
            return
        row, base = self.row, self.columns[: self.n_base]
        zero = np.zeros(len(entering))
        slope, bend = row.slopes(entering, zero)
        signs, ball = np.sign(gradient[entering]), row.ball[entering]
        border = row.design.block(base, entering)
        across = row.design.block(self.columns[self.n_base :], entering)
        corner = row.design.block(entering, entering)
        if self.sigma:
            border = border + self.sigma * np.outer(self.signs[: self.n_base] * self.ball[: self.n_base], signs * ball)
            across = across + self.sigma * np.outer((self.signs * self.ball)[self.n_base :], signs * ball)
            corner = corner + self.sigma * np.outer(signs * ball, signs * ball)
        self.corner = np.block([[self.corner, across], [across.T, corner]])
        self.border = np.concatenate([self.border, border], axis=1)
        self.solved_entered = np.concatenate([self.solved_entered, self.factor.solve(border)], axis=1)
        self.columns = np.concatenate([self.columns, entering])
        self.signs, self.slope = np.concatenate([self.signs, signs]), np.concatenate([self.slope, slope])
        self.bend, self.ball = np.concatenate([self.bend, bend]), np.concatenate([self.ball, ball])
        self.held = np.concatenate([self.held, np.zeros(len(entering), dtype=bool)])
        self.kinked = np.concatenate([self.kinked, self._kinked(entering)])
        self.start, self.current = np.concatenate([self.start, zero]), np.concatenate([self.current, zero])
        self.normal = np.concatenate([self.normal, signs * ball])
        right = np.stack([gradient[entering] - signs * slope, signs * ball], axis=1)
        self.right = np.concatenate([self.right, right])

    def leave(self, leaving: Mask, point: Array) -> None:
        """Move to ``point``; the columns ``leaving``, which are zero there, stay at zero from now on."""
        base, dropped = self.n_base, np.flatnonzero(leaving[: self.n_base])
        self.current = point
        self.held[dropped] = True
        unit = np.zeros((base, len(dropped)))
        unit[dropped, np.arange(len(dropped))] = 1.0
        self.dropped = np.concatenate([self.dropped, dropped])
        self.solved_dropped = np.concatenate([self.solved_dropped, self.factor.solve(unit)], axis=1)
        stay = ~leaving[base:]
        if stay.all():
            return
        self._forget(np.flatnonzero(~stay))
        self.corner = self.corner[np.ix_(stay, stay)]
        self.border, self.solved_entered = self.border[:, stay], self.solved_entered[:, stay]
        kept = np.concatenate([np.ones(base, dtype=bool), stay])
        for name in (
            "columns",
            "signs",
            "slope",
            "bend",
            "ball",
            "held",
            "kinked",
            "start",
            "current",
            "normal",
            "right",
        ):
            setattr(self, name, getattr(self, name)[kept])

    def _forget(self, gone: Index) -> None:
        """Take columns of E (by place) to zero in the point w⁰ itself, before they are cut out."""
        base = self.n_base
        at = self.start[base + gone]
        priced = self.sigma * float(self.normal[base + gone] @ at)  # what σaaᵀ has in border and corner
        moved = np.concatenate([self.border[:, gone] @ at, self.corner[:, gone] @ at]) - priced * self.normal
        self.right[:, 0] += moved
        self.solved[:, 0] += self.solved_entered[:, gone] @ at - priced * self.solved[:, 1]

    def minimiser(self) -> tuple[Array, float]:
        """The minimiser on the face and the multiplier of the ball.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the columns that changed are dependent up to rounding: what is left must be factorised anew.
        """
        free, along = self._solve()
        free += self.start
        excess, curvature = float(self.normal @ free) - self.row.radius, float(self.normal @ along)
        mu = 0.0
        # Without a free column in J, or along a direction that the rounding has eaten, the ball has nothing to say.
        if (excess > 0 or self.tight) and curvature > 1e-12 * abs(
            float(self.normal[: self.n_base] @ self.solved[:, 1])
        ):
            mu = excess / curvature
            free -= mu * along
            mu += self.sigma * float(self.normal @ (free - self.start))
        free[self.held] = 0.0
        return free, mu

    def _solve(self) -> tuple[Array, Array]:
        """Δ for the two right-hand sides, on A and E."""
        base, entered = self.n_base, len(self.columns) - self.n_base
        if not self.changes:
            return self.solved[:, 0].copy(), self.solved[:, 1].copy()
        solved = np.concatenate([self.solved_entered, self.solved_dropped], axis=1)
        schur = -np.concatenate([self.border.T @ solved, solved[self.dropped]], axis=0)
        schur[:entered, :entered] += self.corner
        # The proximal term of the factorisation, on what entered.
        schur.flat[: entered * (schur.shape[1] + 1) : schur.shape[1] + 1] += self.bend[base:] + 1e-12
        right = -np.concatenate([self.border.T @ self.solved, self.solved[self.dropped]], axis=0)
        right[:entered] += self.right[base:]
        right[entered:, 0] -= self.start[self.dropped]
        t = np.linalg.solve(schur, right)
        if not np.isfinite(t).all():
            raise np.linalg.LinAlgError
        moved = np.concatenate([self.solved - solved @ t, t[:entered]], axis=0)
        return moved[:, 0].copy(), moved[:, 1].copy()

    def gradient(self) -> Array:
        """Φᵀ(z − Φw) at the current point, on A and E."""
        base, shift = self.n_base, self.current - self.start
        product = np.concatenate(
            [
                self.factor.product(shift[:base]) + self.border @ shift[base:],
                self.border.T @ shift[:base] + self.corner @ shift[base:],
            ]
        )
        product -= self.sigma * self.normal * float(self.normal @ shift)
        return np.asarray(self.right[:, 0] + self.signs * self.slope - product)

    def change(self, points: Array) -> Array:
        """What the row's objective changes from w⁰ to each row of ``points`` (q, n), up to a constant."""
        base = self.n_base
        shift = (points - self.start).T
        quadratic = self.factor.gram_times(shift[:base])
        if len(self.columns) > base:
            entered = shift[base:]
            quadratic = quadratic + np.einsum(
                "ij,ij->j", entered, 2 * (self.border.T @ shift[:base]) + self.corner @ entered
            )
            if self.sigma:
                ball, total = self.normal[base:] @ entered, self.normal @ shift
                quadratic -= self.sigma * ball * (2 * (total - ball) + ball)
        linear = self.right[:, 0] + self.signs * self.slope
        return np.asarray(0.5 * quadratic - linear @ shift + self.row.priced(self.columns, points))
