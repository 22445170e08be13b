r"""The optimum of perturbed row problems is followed to the true ones event by event: a homotopy.

At t = 0 the data are perturbed such that the present point is optimal, at t = 1 they are the true ones. In between the
coefficients, gradients and multipliers of the watched columns (``tableau``) are linear in t up to the next event: a
coefficient reaches zero, a gradient its limit p + μa, a coefficient the τ at which the penalty bends, the ball's slack
or multiplier zero. At every event one variable changes sides by one pivot. Since the problems are convex t only grows,
and it reaches 1 after about as many events as there are columns on the wrong side: that is the parametric active-set
method (Best 1996; Ferreau, Bock and Diehl 2008), and with all columns watched from zero it is the homotopy of the lasso
(Osborne, Presnell and Turlach 2000).

What a variable has left to its events is kept as *distances* ≥ 0 on three sides. Each shrinks at a speed a·rate + b·μ',
with rate the entry of the tableau's right-hand side, μ' the speed of the multiplier, and (a, b) by the state of the
variable:

    side           UP                                       DOWN                          BEND
    active         s·w                  (s, 0)              none                          |w| to τ        (∓s, 0)
    inactive       p + μa − g           (−1, a) outside     p + μa + g   (1, a) outside   none
                                        (1, a − n) in base               (−1, a + n) in base
    ball           slack or μ           (1, 0)              none                          none

The tableaux stay where they are, on a GPU if the problem is there; what decides the events is small and is NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Array, Batch, Index, Mask
from simplicit.rows.tableau import BALL, SPARE, Couplings, Pivots, Tableau

UP, DOWN, BEND = range(3)
#: What is fixed of a slot: p, a, n, c and τ.
KINK, WEIGHT, NORMAL, CURVATURE, THRESHOLD = range(5)
#: The speed of a coefficient, or of a gradient, below this share of the first ones is rounding: some hundred roundings,
#: and more for gradients, which are differences of larger numbers.
NOISE, GRADIENT_NOISE = 1e-13, 1e-11
#: A row that makes more events at the same t than this and its slots goes in a circle. The family has no such row, the
#: path one, which only costs events.
MOST_DEGENERATE = 50
#: Rows that are done are set aside when no more than this share is left: with .4 the polish of hard takes as long, with
#: .95, which copies more often, a sixth longer.
SET_ASIDE = 0.7


def follow(tableau: Tableau, rate: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Follow the optimum from t = 0 to t = 1 by at most so many events a row; the tableau and its slots go along.

    ``rate`` (r, q) is the right-hand side r of the first tableau. Returned are the t (r,) that are reached, below 1
    where a row has made all its events or goes in a circle, and where the base no longer is the one of the first
    tableau, (r,), so that the row can go on only with a new one.
    """
    first, rate = rate, tableau.swept(rate[:, :, None])[:, :, 0]
    rows = len(rate)
    reached, stale = np.zeros(rows), np.zeros(rows, dtype=bool)
    # Slots without a variable are infinitely far from their events.
    with np.errstate(all="ignore"):
        path, alive = _Homotopy.begin(tableau, first, rate), np.arange(rows)
        for _ in range(most):
            going = path.step()
            count = np.count_nonzero(going)
            if count <= SET_ASIDE * len(alive):
                path.store(tableau, alive, reached, stale)
                alive, path = alive[going], path.select(going)
            if not count:
                break
        else:
            path.store(tableau, alive, reached, stale)
    return torch.from_numpy(reached).to(rate.device), torch.from_numpy(stale).to(rate.device)


@dataclass
class _Homotopy(Batch):
    """These rows have events before them: arrays (r, sides, q), (r, q) and (r,); the tableau changes in place."""

    table: Tensor  # T
    rate: Array  # r
    fixed: Array  # (r, q, 5)
    inside: Mask  # which are in the base
    active: Mask
    bent: Mask
    tight: Mask
    distance: Array
    by_rate: Array  # a of the speeds
    by_ball: Array  # b
    slowest: Array  # sides have events only at speeds below this
    least: Array  # distances are no less: 0, −∞ for columns that wait for another base
    noise: Array  # speeds below these are rounding: of coefficients, and of gradients
    gradient_noise: Array
    t: Array
    stale: Mask
    degenerate: Index  # events at the same t
    bends: bool
    has_ball: bool

    @classmethod
    def begin(cls, tableau: Tableau, first: Tensor, rate: Tensor) -> _Homotopy:
        """Start at t = 0, from the right-hand sides of the first tableau and of what it has become."""
        slots, rates = tableau.slots, rate.cpu().numpy().copy()
        parts = (slots.kink, slots.ball, slots.normal, slots.curvature, slots.threshold)
        fixed, value = np.stack([part.cpu().numpy() for part in parts], axis=2), slots.value.cpu().numpy()
        inside, active, bent = (a.cpu().numpy().copy() for a in (slots.inside, slots.active, slots.bent))
        bends = bool(((fixed[:, :, THRESHOLD] > 0) & (fixed[:, :, CURVATURE] > 0)).any())
        limit = fixed[:, :, KINK] + fixed[:, :, WEIGHT] * np.where(active[:, BALL], value[:, BALL], 0.0)[:, None]
        distance, by_rate, by_ball = _sides(fixed, value, limit, inside, active, bent, bends=bends)
        distance[:, UP, BALL], distance[:, DOWN, BALL] = np.maximum(value[:, BALL], 0.0), np.inf
        by_rate[:, UP, BALL], by_rate[:, DOWN, BALL] = 1.0, 0.0
        noise = -NOISE * np.abs(rates).max(axis=1)
        gradient_noise = -GRADIENT_NOISE * np.abs(first.cpu().numpy()).max(axis=1)
        slowest = np.where(active, noise[:, None], gradient_noise[:, None])
        slowest[:, BALL] = noise
        return cls(
            table=tableau.table,
            rate=rates,
            fixed=fixed,
            inside=inside,
            active=active,
            bent=bent,
            tight=active[:, BALL].copy(),
            distance=distance,
            by_rate=by_rate,
            by_ball=by_ball,
            slowest=np.repeat(slowest[:, None], distance.shape[1], axis=1),
            least=np.zeros_like(distance),
            noise=noise,
            gradient_noise=gradient_noise,
            t=np.zeros(len(value)),
            stale=np.zeros(len(value), dtype=bool),
            degenerate=np.zeros(len(value), dtype=np.intp),
            bends=bends,
            has_ball=bool(fixed[:, :, WEIGHT].any()),
        )

    def __post_init__(self) -> None:
        self.pivots = Pivots(self.table)
        self.row, self.blocked = np.arange(len(self.t)), np.full(len(self.t), SPARE)

    def store(self, tableau: Tableau, rows: Index, reached: Array, stale: Mask) -> None:
        """Write the state back to the places ``rows``."""
        by_side = self.distance[:, UP] * self.by_rate[:, UP]
        value = np.where(self.active, by_side, 0.5 * (self.distance[:, DOWN] - self.distance[:, UP]))
        value[:, BALL] = self.distance[:, UP, BALL]
        value[np.isnan(value)] = 0.0  # of slots without a variable
        self.pivots.settle()
        index = torch.from_numpy(rows).to(tableau.table.device)
        if self.table is not tableau.table:
            tableau.table[index] = self.table
        slots = tableau.slots
        for mine, theirs in ((slots.active, self.active), (slots.bent, self.bent), (slots.value, value)):
            mine[index] = torch.from_numpy(theirs).to(mine.device)
        reached[rows], stale[rows] = self.t, self.stale

    def step(self) -> Mask:
        """Go to the next event of every row, or to t = 1, and say which rows go on, (r,)."""
        row, rate = self.row, self.rate
        speed = self.by_rate * rate[:, None, :]
        if self.has_ball:
            speed += self.by_ball * np.where(self.tight, rate[:, BALL], 0.0)[:, None, None]
        times = np.where(speed < self.slowest, self.distance / speed, -np.inf)  # negative
        times[row, :, self.blocked] = -np.inf
        times = times.reshape(len(row), -1)
        index = times.argmax(axis=1)
        best, left = -times[row, index], 1.0 - self.t
        more = best < left
        dt = np.where(more, best, left)
        self.distance += speed * dt[:, None, None]
        np.maximum(self.distance, self.least, out=self.distance)
        before, self.t = self.t, np.where(more, self.t + dt, 1.0)
        self.degenerate = np.where(self.t > before, 0, self.degenerate + 1)
        side, slot = np.divmod(index, rate.shape[1])
        slot = np.where(more, slot, SPARE)
        # What has just changed sides without a step does not change back at once, whatever the rounding says.
        self.blocked = np.where(dt > 0, SPARE, slot)
        if self.bends and (side == BEND).any():
            slot = self._bend(np.where(side == BEND, slot, SPARE), slot)
        circling: Mask = self.degenerate > MOST_DEGENERATE + rate.shape[1]
        going: Mask = more & ~circling
        self._change_sides(side, slot)
        self.stale |= circling
        return going

    def _bend(self, here: Index, slot: Index) -> Index:
        """Pass the bends of the penalty, at the slots ``here``, and return the slots of the other events."""
        row, real = self.row, here != SPARE
        bent = self.bent[row, here]
        change = np.where(bent, -1.0, 1.0) * self.fixed[row, here, CURVATURE] * real
        self.pivots.bend(self.rate, here, change)
        self.by_rate[row, BEND, here] *= -1
        self.distance[row[real], BEND, here[real]] = 0.0
        self.bent[row, here] = ~bent & real
        self.stale |= self.inside[row, here]
        return np.where(real, SPARE, slot)

    def _change_sides(self, side: Index, slot: Index) -> None:
        """Pivot every row on the slot of its event."""
        row = self.row
        ball, normal = self.fixed[row, slot, WEIGHT], self.fixed[row, slot, NORMAL]
        active, inside = self.active[row, slot], self.inside[row, slot]
        sign = np.where(active, self.by_rate[row, UP, slot], np.where(side == UP, 1.0, -1.0))
        # The base knows a column of the ball by one sign alone: one that wants back by the other waits for a new base.
        halted = ~active & inside & (sign * ball != normal)
        if halted.any():
            self.stale |= halted
            self.slowest[row[halted], :, slot[halted]] = self.least[row[halted], :, slot[halted]] = -np.inf
            slot = np.where(halted, SPARE, slot)
            active, inside = self.active[row, slot], self.inside[row, slot]
        coupling = np.where(inside | (slot <= SPARE), 0.0, sign * ball)
        couplings = None
        if coupling.any():
            couplings = Couplings(self.tight, np.where(active, 0.0, coupling), np.where(active, -coupling, 0.0))
        self.pivots.pivot(self.rate, slot, active ^ inside, couplings)
        self.tight ^= slot == BALL
        self.active[row, slot] = ~active & (slot != SPARE)
        self._place(np.flatnonzero(slot > SPARE), slot, sign, ~active)

    def _place(self, rows: Index, slot: Index, sign: Array, entered: Mask) -> None:
        """Set distances and speeds of columns that have entered, at zero, or left, with gradients at the limit."""
        slot, entered = slot[rows], entered[rows]
        fixed = self.fixed[rows, slot]
        limit = fixed[:, KINK] + fixed[:, WEIGHT] * np.where(self.tight[rows], self.distance[rows, UP, BALL], 0.0)
        value = np.where(entered, 0.0, limit) * sign[rows]
        self.bent[rows, slot] = bent = entered & (fixed[:, THRESHOLD] == 0)
        sides = _sides(fixed, value, limit, self.inside[rows, slot], entered, bent, bends=self.bends)
        self.distance[rows, :, slot], self.by_rate[rows, :, slot], self.by_ball[rows, :, slot] = sides
        self.slowest[rows, :, slot] = np.where(entered, self.noise[rows], self.gradient_noise[rows])[:, None]


def _sides(
    fixed: Array, value: Array, limit: Array, inside: Mask, active: Mask, bent: Mask, *, bends: bool
) -> tuple[Array, Array, Array]:
    """Return the distances of columns to their events, and a and b of their speeds, with the sides along axis 1.

    The value is the coefficient of an active column, else the gradient, whose limit is p + μa.
    """
    ball, normal, sign, inward = fixed[..., WEIGHT], fixed[..., NORMAL], np.copysign(1.0, value), 2.0 * inside - 1.0
    shape = (len(value), 3 if bends else 2, *value.shape[1:])
    distance, by_rate, by_ball = np.empty(shape), np.zeros(shape), np.zeros(shape)
    distance[:, UP] = np.where(active, np.abs(value), limit - value)
    distance[:, DOWN] = np.where(active, np.inf, limit + value)
    by_rate[:, UP], by_rate[:, DOWN] = np.where(active, sign, inward), np.where(active, 0.0, -inward)
    by_ball[:, UP], by_ball[:, DOWN] = (np.where(active, 0.0, ball + s * normal) for s in (-1, 1))
    if bends:
        threshold, outward = fixed[..., THRESHOLD], 1.0 - 2.0 * bent
        bending = active & (threshold > 0) & (fixed[..., CURVATURE] > 0)
        distance[:, BEND] = np.where(bending, outward * (threshold - np.abs(value)), np.inf)
        by_rate[:, BEND] = np.where(bending, -outward * sign, 0.0)
    return np.maximum(distance, 0.0, out=distance), by_rate, by_ball
