r"""Active-set polish of one row: exact on a pattern of signs, and every step descends.

The rounds of ``rounds`` let in the columns that violate the optimality condition |gradient| ≤ p + μaⱼ. On the face of
the columns that are in, the step goes towards the minimiser w* of the quadratic model (``face``). It descends the row's
objective itself up to the first sign that flips. There the column leaves. Longer steps, which set several columns to
zero at once, are tried too and taken when they descend further. When all signs hold, w* is the exact minimiser on its
pattern.

Should a round not have lowered the objective, only the worst column is let in next, for which the step is sure to
descend. So in exact arithmetic no pattern comes twice and the method ends, whatever the rank of Φ; plain "drop the
flipped, add the violated" cycles where G is singular. Rounding is dealt with in ``rounds``, which keeps no step that
raises the objective.

Where the penalty has a quadratic piece, the model is exact only on the pieces of the present point: the step is then
chosen by the true objective, and the next model is that of the point where it ends, as in a damped Newton method.
"""

from __future__ import annotations

import time

import numpy as np

from simplicit.rows.ball import shrink_into_ball
from simplicit.rows.face import Array, Face, Index, Mask, Row

__all__ = ["RowPolish"]

#: Fractions of the way to w* that are tried, and the columns that flip, in the order in which they reach zero, at which
#: a step may end.
STEPS = np.array([0.25, 0.5, 1.0])
QUANTILES = np.array([0.1, 0.25, 0.5, 0.75, 1.0])
#: The shortest step where the model is not exact.
SHORT = 1 / 64
#: Up to this share of the columns may flip and leave together untried, until a step had to be taken back.
FEW = 0.1
INTERPOLATING = 0.8
#: New models of a bent penalty per round.
MODELS = 20


class RowPolish:
    """The polish of one row: :meth:`improve` once a round, with the face kept between rounds.

    Attributes
    ----------
    multiplier : float
        μ of the ball. Negative if the ball was taken as tight and should be left: the next round does.
    cautious : bool
        Whether every step is chosen by its objective; to be set when a step had to be taken back.
    factor_seconds : float
        Processor time in factorisations so far.
    """

    def __init__(self, row: Row) -> None:
        self.row, self.multiplier, self.cautious = row, 0.0, False
        self.face: Face | None = None
        self.factor_seconds = 0.0

    def improve(self, w: Array, gradient: Array, entering: Index) -> Array:
        """Descend from ``w`` to the exact minimiser on a subset of its own pattern plus ``entering``.

        Parameters
        ----------
        w : (k,) array
            A feasible point.
        gradient : (k,) array
            Φᵀ(z − Φw) there.
        entering : index array
            Columns at zero that may move, in the direction of their gradient.

        Returns
        -------
        (k,) array
            Feasible; up to rounding the objective is not above that of the input.
        """
        row = self.row
        at_radius = float(np.abs(w) @ row.ball) >= row.radius * (1 - 1e-9)
        tight = self.multiplier > 0 or (self.multiplier == 0 and at_radius)
        kept = self.face is not None and self.face.tight == tight
        if self.face is None or not kept or not self.face.restart(w, gradient, entering, self.multiplier):
            self.face = None
            columns = np.concatenate([np.flatnonzero(w), entering])
            self._open(columns, w[columns], gradient[columns], tight)
        result = np.zeros_like(w)
        for _ in range(MODELS):
            if self.face is None or self._descend(self.face):
                break
            self._open_again(self.face)
        if self.face is not None:
            result[self.face.columns] = self.face.current
        inside = row.ball > 0
        result[inside] = shrink_into_ball(result[inside], row.radius, row.ball[inside])
        return result

    def _open(self, columns: Index, w: Array, gradient: Array, tight: bool) -> None:
        if not len(columns):
            self.face, self.multiplier = None, 0.0
            return
        signs = np.where(w != 0, np.sign(w), np.sign(gradient))
        begun = time.thread_time()
        self.face = Face(self.row, columns, w, gradient, signs, tight=tight)
        self.factor_seconds += time.thread_time() - begun

    def _open_again(self, face: Face) -> None:
        """A new face on what is left of the old one, where it stands."""
        stay = ~face.held
        gradient = face.gradient()
        self._open(face.columns[stay], face.current[stay], gradient[stay], face.tight)

    def _descend(self, face: Face) -> bool:
        """Go to the minimiser with all signs right, columns that flip leaving on the way.

        Returns False if it takes a new face.
        """
        while True:
            try:
                target, mu = face.minimiser()
            except np.linalg.LinAlgError:  # the columns that changed are dependent up to rounding
                self.multiplier = 0.0
                return False
            self.multiplier = mu
            flipped = (target * face.signs <= 0) & ~face.held & face.kinked
            bent = self._bent(face, target)
            if not flipped.any() and not bent:
                face.current, face.settled = target, True
                return True
            few = np.count_nonzero(flipped) <= FEW * len(flipped)
            if few and not bent and not self.cautious and not self._nearly_interpolating(face):
                point = _into_ball(np.where(flipped, 0.0, target)[None, :], face)[0]
            else:
                point = _best(face, _candidates(face, target, flipped, bent=bent))
            face.leave(flipped & (point == 0), point)
            if bent or face.worn:
                return False

    def _nearly_interpolating(self, face: Face) -> bool:
        """Whether there are nearly as many columns as samples, where minimisers on a face lie far away."""
        m = self.row.design.n_samples
        return m is not None and len(face.columns) > INTERPOLATING * m

    def _bent(self, face: Face, target: Array) -> bool:
        """Whether the model is not exact up to ``target``, because a coefficient passes to another piece."""
        if not self.row.bends:
            return False
        _, bend = self.row.slopes(face.columns, target)
        return bool((bend != face.bend)[~face.held & (target * face.signs > 0)].any())


def _candidates(face: Face, target: Array, flipped: Mask, *, bent: bool) -> Array:
    """Points on the way to ``target``, columns that flip stopped at zero, back in the ball.

    The first one ends at the first flip, or early where the model is not exact.
    """
    current = face.current
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(flipped, current / (current - target), np.inf)
    reach[flipped & (current == 0)] = 0.0
    flips = np.sort(reach[flipped])
    chosen = flips[(QUANTILES * (len(flips) - 1)).astype(int)] if len(flips) else flips
    steps = np.concatenate([chosen, STEPS])
    first = min(float(flips[0]) if len(flips) else 1.0, SHORT if bent else 1.0)
    steps = np.concatenate([[first], steps[steps > first]])[:, None]
    points = current + steps * (target - current)
    points[reach <= steps * (1 + 1e-12)] = 0.0
    return _into_ball(points, face)


def _into_ball(points: Array, face: Face) -> Array:
    """Every row of ``points`` scaled back into the ball."""
    norms = np.abs(points) @ face.ball
    outside = norms > face.row.radius
    if outside.any():
        shrink = (face.row.radius / norms[outside])[:, None]
        points[outside] *= np.where(face.ball > 0, shrink, 1.0)
    return points


def _best(face: Face, points: Array) -> Array:
    """The candidate with the lowest objective."""
    # Along a null direction of G the target is far away; a value that overflows is simply not chosen.
    with np.errstate(over="ignore", invalid="ignore"):
        change = face.change(points)
    best = int(np.argmin(np.nan_to_num(change, nan=np.inf)))
    # The first one stops at the first flip: descent is certain there, whatever the rounding says of others.
    return np.asarray(points[best] if change[best] < change[0] else points[0])
