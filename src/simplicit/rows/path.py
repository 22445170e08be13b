r"""The optimum of perturbed row problems, followed to the true ones event by event.

At t = 0 the data are perturbed such that the present point is optimal, at t = 1 they are the true ones. In between the
coefficients, gradients and multipliers of the watched columns (``tableau``) are linear in t up to the next event: a
coefficient reaches zero, a gradient its threshold p + μa, a coefficient the τ at which the penalty bends, the ball's
slack or multiplier zero. At every event one variable changes sides by one pivot. Since the problems are convex t only
grows, and a path ends after about as many events as there are columns on the wrong side: that is the parametric
active-set method (Best 1996; Ferreau, Bock and Diehl 2008), and with all columns watched from zero it is the homotopy
of the lasso (Osborne, Presnell and Turlach 2000).

What a variable has left to its events is kept as *rooms* ≥ 0 on three sides. Each shrinks at a speed a·rate + b·μ',
with rate the entry of the tableau's right-hand side, μ' the speed of the multiplier, and (a, b) by the state of the
variable:

    side           FALL or UP                               DOWN                          BEND
    active         s·w                  (s, 0)              none                          |w| to τ        (∓s, 0)
    inactive       p + μa − g           (−1, a) outside     p + μa + g   (1, a) outside   none
                                        (1, a − n) in base               (−1, a + n) in base
    ball           slack or μ           (1, 0)              none                          none

The tableaux stay where they are, on a GPU if the problem is there; what decides the events is small and is NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.tableau import BALL, SPARE, Couplings, Pivots, Tableau

__all__ = ["follow"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

UP, DOWN, BEND = 0, 1, 2
#: A speed below this share of the first ones is rounding.
STILL, STILL_GRADIENT = 1e-13, 1e-11
#: A row that makes more events at the same t than this and its slots goes in a circle.
STUCK = 50
#: Rows that are done are set aside when no more than this share is left.
SET_ASIDE = 0.7


def follow(tableau: Tableau, rate: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Follow the optimum from t = 0 to t = 1; the tableau and the values of its slots go along.

    Parameters
    ----------
    tableau : Tableau
    rate : (r, q) tensor
        The right-hand side r of the first tableau.
    most : int
        Events per row, at most.

    Returns
    -------
    reached : (r,) tensor
        t; below 1 where a row has made all its events or goes in a circle.
    worn : (r,) boolean tensor
        Where the base no longer is the one of the first tableau, so that the row can go on only with a new one.
    """
    first, rate = rate, tableau.swept(rate[:, :, None])[:, :, 0]
    rows = len(rate)
    reached, worn = np.zeros(rows), np.zeros(rows, dtype=bool)
    # Slots without a variable are infinitely far from their events.
    with np.errstate(all="ignore"):
        path, alive = _Path.begin(tableau, first, rate), np.arange(rows)
        for _ in range(most):
            going = path.step()
            count = np.count_nonzero(going)
            if count <= SET_ASIDE * len(alive):
                path.store(tableau, alive, reached, worn)
                alive, path = alive[going], path.select(going)
            if not count:
                break
        else:
            path.store(tableau, alive, reached, worn)
    return torch.from_numpy(reached).to(rate.device), torch.from_numpy(worn).to(rate.device)


class _Path:
    """The rows that have events before them: arrays (r, sides, q), (r, q) and (r,)."""

    pivots: Pivots
    rate: Array
    rooms: Array
    along: Array  # a of the speeds
    drag: Array  # b
    active: Mask
    bent: Mask
    inside: Mask  # in the base
    fixed: Array  # kink, ball, normal, curvature and threshold, (r, q, 5)
    tight: Mask
    t: Array
    worn: Mask
    stuck: Index  # events at the same t
    slowest: Array
    slowest_gradient: Array
    still: Array  # sides have events only at speeds below this
    least: Array  # rooms are no less: 0, −∞ for columns that wait for another base
    bends: bool
    has_ball: bool

    @classmethod
    def begin(cls, tableau: Tableau, first: Tensor, rate: Tensor) -> _Path:
        """At t = 0."""
        path, slots = cls(), tableau.slots
        path.pivots, path.rate = Pivots(tableau.table), rate.cpu().numpy().copy()
        kink, ball, normal, curvature, threshold, value = (
            a.cpu().numpy()
            for a in (slots.kink, slots.ball, slots.normal, slots.curvature, slots.threshold, slots.value)
        )
        path.active, path.bent = slots.active.cpu().numpy().copy(), slots.bent.cpu().numpy().copy()
        path.inside = (slots.place >= 0).cpu().numpy()
        path.fixed = np.stack([kink, ball, normal, curvature, threshold], axis=2)
        path.bends, path.has_ball = bool(((threshold > 0) & (curvature > 0)).any()), bool(ball.any())
        path.tight = path.active[:, BALL].copy()
        path.t, path.worn = np.zeros(len(value)), np.zeros(len(value), dtype=bool)
        path.stuck = np.zeros(len(value), dtype=np.intp)
        path.slowest = -STILL * np.abs(path.rate).max(axis=1)
        path.slowest_gradient = -STILL_GRADIENT * np.abs(first.cpu().numpy()).max(axis=1)
        path._open(value)
        path._prepare()
        return path

    def _prepare(self) -> None:
        self.row, self.blocked = np.arange(len(self.t)), np.full(len(self.t), SPARE)

    def _open(self, value: Array) -> None:
        """Rooms and speeds of all variables."""
        kink, ball, normal, curvature, threshold = np.moveaxis(self.fixed, 2, 0)
        limit = kink + ball * np.where(self.tight, value[:, BALL], 0.0)[:, None]
        active, sign, inward = self.active, np.copysign(1.0, value), np.where(self.inside, 1.0, -1.0)
        count, q = value.shape
        sides = 3 if self.bends else 2
        self.rooms = np.full((count, sides, q), np.inf)
        self.along, self.drag = np.zeros_like(self.rooms), np.zeros_like(self.rooms)
        self.rooms[:, UP] = np.where(active, np.abs(value), limit - value)
        self.rooms[:, DOWN] = np.where(active, np.inf, limit + value)
        self.along[:, UP], self.along[:, DOWN] = np.where(active, sign, inward), np.where(active, 0.0, -inward)
        self.drag[:, UP], self.drag[:, DOWN] = (np.where(active, 0.0, ball + s * normal) for s in (-1, 1))
        if self.bends:
            bending, outward = active & (threshold > 0) & (curvature > 0), np.where(self.bent, -1.0, 1.0)
            self.rooms[:, BEND] = np.where(bending, outward * (threshold - np.abs(value)), np.inf)
            self.along[:, BEND] = np.where(bending, -outward * sign, 0.0)
        self.rooms[:, UP, BALL], self.rooms[:, DOWN, BALL] = value[:, BALL], np.inf
        self.along[:, UP, BALL], self.along[:, DOWN, BALL] = 1.0, 0.0
        np.maximum(self.rooms, 0.0, out=self.rooms)
        self.still = np.repeat(
            np.where(active, self.slowest[:, None], self.slowest_gradient[:, None])[:, None], sides, axis=1
        )
        self.still[:, :, BALL] = self.slowest[:, None]
        self.least = np.zeros_like(self.still)

    def select(self, rows: Mask) -> _Path:
        """Some of the rows."""
        part = _Path()
        part.bends, part.has_ball = self.bends, self.has_ball
        for name in (
            "rate",
            "rooms",
            "along",
            "drag",
            "active",
            "bent",
            "inside",
            "fixed",
            "tight",
            "t",
            "worn",
            "stuck",
            "still",
            "least",
            "slowest",
            "slowest_gradient",
        ):
            setattr(part, name, getattr(self, name)[rows])
        part.pivots = self.pivots.select(rows)
        part._prepare()
        return part

    def store(self, tableau: Tableau, rows: Index, reached: Array, worn: Mask) -> None:
        """Write the state back to the places ``rows``."""
        value = np.where(
            self.active, self.rooms[:, UP] * self.along[:, UP], 0.5 * (self.rooms[:, DOWN] - self.rooms[:, UP])
        )
        value[:, BALL] = self.rooms[:, UP, BALL]
        value[np.isnan(value)] = 0.0  # of slots without a variable
        self.pivots.settle()
        index = torch.from_numpy(rows).to(tableau.table.device)
        if self.pivots.table is not tableau.table:
            tableau.table[index] = self.pivots.table
        slots = tableau.slots
        for mine, theirs in ((slots.active, self.active), (slots.bent, self.bent), (slots.value, value)):
            mine[index] = torch.from_numpy(theirs).to(mine.device)
        reached[rows], worn[rows] = self.t, self.worn

    def step(self) -> Mask:
        """Go to the next event of every row, or to t = 1; returns which rows go on, (r,)."""
        row, rate = self.row, self.rate
        speed = self.along * rate[:, None, :]
        if self.has_ball:
            speed += self.drag * np.where(self.tight, rate[:, BALL], 0.0)[:, None, None]
        times = np.where(speed < self.still, self.rooms / speed, -np.inf)  # negative
        times[row, :, self.blocked] = -np.inf
        times = times.reshape(len(row), -1)
        index = times.argmax(axis=1)
        best, left = -times[row, index], 1.0 - self.t
        more = best < left
        dt = np.where(more, best, left)
        self.rooms += speed * dt[:, None, None]
        np.maximum(self.rooms, self.least, out=self.rooms)
        before, self.t = self.t, np.where(more, self.t + dt, 1.0)
        self.stuck = np.where(self.t > before, 0, self.stuck + 1)
        side, slot = np.divmod(index, rate.shape[1])
        slot = np.where(more, slot, SPARE)
        # What has just changed sides without a step does not change back at once, whatever the rounding says.
        self.blocked = np.where(dt > 0, SPARE, slot)
        if self.bends and (side == BEND).any():
            slot = self._bend(np.where(side == BEND, slot, SPARE), slot)
        lost: Mask = self.stuck > STUCK + rate.shape[1]
        going: Mask = more & ~lost
        self._change_sides(side, slot)
        self.worn |= lost
        return going

    def _bend(self, here: Index, slot: Index) -> Index:
        """The events at which the penalty bends, at the slots ``here``; returns the slots of the others."""
        row, real = self.row, here != SPARE
        bent = self.bent[row, here]
        change = np.where(bent, -1.0, 1.0) * self.fixed[row, here, 3] * real
        self.pivots.bend(self.rate, here, change)
        self.along[row, BEND, here] *= -1
        self.rooms[row[real], BEND, here[real]] = 0.0
        self.bent[row, here] = ~bent & real
        self.worn |= self.inside[row, here]
        return np.where(real, SPARE, slot)

    def _change_sides(self, side: Index, slot: Index) -> None:
        """The pivots of all rows."""
        row = self.row
        ball, normal = self.fixed[row, slot, 1], self.fixed[row, slot, 2]
        active, inside = self.active[row, slot], self.inside[row, slot]
        sign = np.where(active, self.along[row, UP, slot], np.where(side == UP, 1.0, -1.0))
        # The base knows a column of the ball by one sign alone: one that wants back by the other waits for a new base.
        halted = ~active & inside & (sign * ball != normal)
        if halted.any():
            self.worn |= halted
            self.still[row[halted], :, slot[halted]] = self.least[row[halted], :, slot[halted]] = -np.inf
            slot = np.where(halted, SPARE, slot)
            active, inside = self.active[row, slot], self.inside[row, slot]
        coupling = np.where(inside | (slot <= SPARE), 0.0, sign * ball)
        couplings = None
        if coupling.any():
            couplings = Couplings(self.tight, np.where(active, 0.0, coupling), np.where(active, -coupling, 0.0))
        self.pivots.pivot(self.rate, slot, active ^ inside, couplings)
        self.tight ^= slot == BALL
        self.active[row, slot] = ~active & (slot != SPARE)
        column = slot > SPARE
        self._enter(np.flatnonzero(column & ~active), slot, sign)
        self._leave(np.flatnonzero(column & active), slot, sign)

    def _enter(self, rows: Index, slot: Index, sign: Array) -> None:
        """Rooms and speeds of columns that have become active, at zero."""
        slot, sign = slot[rows], sign[rows]
        self.rooms[rows, UP, slot], self.rooms[rows, DOWN, slot] = 0.0, np.inf
        self.along[rows, UP, slot], self.along[rows, DOWN, slot] = sign, 0.0
        self.drag[rows, UP, slot] = self.drag[rows, DOWN, slot] = 0.0
        self.still[rows, :, slot] = self.slowest[rows, None]
        curvature, threshold = self.fixed[rows, slot, 3], self.fixed[rows, slot, 4]
        self.bent[rows, slot] = threshold == 0
        if self.bends:
            bending = (threshold > 0) & (curvature > 0)
            self.rooms[rows, BEND, slot] = np.where(bending, threshold, np.inf)
            self.along[rows, BEND, slot] = np.where(bending, -sign, 0.0)

    def _leave(self, rows: Index, slot: Index, sign: Array) -> None:
        """Rooms and speeds of columns that have come to zero, with their gradients at the threshold."""
        slot, sign = slot[rows], sign[rows]
        kink, ball, normal = self.fixed[rows, slot, :3].T
        limit = kink + ball * np.where(self.tight[rows], self.rooms[rows, UP, BALL], 0.0)
        inward = np.where(self.inside[rows, slot], 1.0, -1.0)
        self.rooms[rows, UP, slot], self.rooms[rows, DOWN, slot] = limit * (1 - sign), limit * (1 + sign)
        self.along[rows, UP, slot], self.along[rows, DOWN, slot] = inward, -inward
        self.drag[rows, UP, slot], self.drag[rows, DOWN, slot] = ball - normal, ball + normal
        self.still[rows, :, slot] = self.slowest_gradient[rows, None]
        self.bent[rows, slot] = False
        if self.bends:
            self.rooms[rows, BEND, slot], self.along[rows, BEND, slot] = np.inf, 0.0
