r"""The polish leads from nearly the right support to the exact solution: a parametric active set on all rows at once.

Every row has a *base*, the columns that were in when it was factorised, and *watches* some columns: those of the base
that may leave and those outside that may enter. An iteration perturbs the gradients such that the present point is
optimal, and follows the optimum to the true gradients (``homotopy``), while the watched columns change sides and the
others keep theirs. At its end

- columns of the base that nobody watched may have passed zero: they are watched from the next iteration on, at zero.
  Where many did, the row has gone astray: it goes back to where it was, and what passes zero first is watched;
- columns outside that nobody watched may violate |gradient| ≤ p + μa: they are watched from the next iteration on.

Without either the row is solved, up to rounding, of which one more iteration without events takes most. Since on one
base what is watched only grows, there are finitely many iterations, whatever the rank of Φ. As a rule one factorisation
serves a row through all of them: it is made anew only where a tableau has grown too large, and then forgets what it
watched, a base column has passed to another piece of its penalty, or rounding has spoilt it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.rows.admm import Start
from simplicit.rows.batch import Batch
from simplicit.rows.certificate import Certificate, certify
from simplicit.rows.condense import Bases, compressed
from simplicit.rows.conditions import Conditions
from simplicit.rows.homotopy import follow
from simplicit.rows.problem import RowProblem
from simplicit.rows.tableau import BALL, SPARE, Slots, Tableau

__all__ = ["Polish"]

#: A tableau has grown too large with more slots than this, and than a share of the support.
MOST_WATCHED, WATCHED_SHARE = 96, 0.75
#: The base has no more columns than this share of the samples: with all of them the minimisers on it lie far away.
BASE_LEAST, BASE_SHARE = 50, 0.85
#: Watched are base columns that a Newton step would bring to zero on less than so many times its way, at most a share
#: of them.
FLIP_REACH, FLIP_LEAST, FLIP_SHARE = 1.5, 16, 0.25
#: A row has gone astray where more unwatched columns than this, and than a share of the support, have passed zero.
ASTRAY_LEAST, ASTRAY_SHARE = 8, 0.05
#: In an iteration no more columns outside are watched than this, or than are in.
ENTER_LEAST = 64
#: A violation below this share of the limit, or below this, is rounding.
VIOLATION, LEAST_VIOLATION = 1e-10, 1e-15
#: With a new penalty those columns are watched at once whose gradients are at least this share of the old limit.
NEAR = 0.95
#: What a column begins with that comes in without a homotopy, as a share of the most that it may have.
PUSH = 1e-3
#: Events of a homotopy, per slot.
EVENTS = 20


@dataclass(eq=False)
class Polish(Batch):
    """Row problems on the way to their solutions.

    Parameters
    ----------
    problem : RowProblem
    w, multiplier : (r, k) and (r,) tensors
        The coefficients, feasible but for rounding, and μ.
    gradient : (r, k) tensor
        Φᵀ(z − Φw).
    undecided : (r, k) boolean tensor
        Columns that are watched as soon as there is a new base.
    pending : (r, k) boolean tensor
        Columns that are watched from the next iteration on.
    watched : (r, k) boolean tensor
    place : (r, k) index tensor
        The places of the columns in the base, −1 outside.
    stale : (r,) boolean tensor
        Rows that take a new base in the next iteration.
    arrived : (r,) boolean tensor
        Rows whose gradient is that of the end of a homotopy.
    bases : Bases
    tableau : Tableau
    factor_seconds : float
        Processor seconds in factorisations, for whoever counts them to take and set back.
    """

    problem: RowProblem
    w: Tensor
    multiplier: Tensor
    gradient: Tensor
    undecided: Tensor
    pending: Tensor
    watched: Tensor
    place: Tensor
    stale: Tensor
    arrived: Tensor
    bases: Bases
    tableau: Tableau
    factor_seconds: float = 0.0

    @classmethod
    def begin(cls, problem: RowProblem, start: Start) -> Polish:
        """Begin where ADMM ended, or anywhere, without a base."""
        rows, nothing = len(start.w), torch.zeros_like(start.undecided)
        none = nothing.new_zeros(rows)
        return cls(
            problem=problem,
            w=start.w.clone(),
            multiplier=start.multiplier.clone(),
            gradient=problem.residuals(start.w)[1],
            undecided=start.undecided.clone(),
            pending=nothing,
            watched=nothing.clone(),
            place=torch.full_like(nothing, -1, dtype=torch.int64),
            stale=~none,
            arrived=none,
            bases=Bases.none(problem.design, rows),
            tableau=Tableau.first(problem.cross.new_zeros(rows, 2, 2)),
        )

    def __post_init__(self) -> None:
        self.conditions = Conditions.of(self.problem)

    def continue_with(self, problem: RowProblem) -> None:
        """Go on with another penalty or ball, from the solution under the one before."""
        without = torch.nonzero(self.bases.watched == 0)[:, 0]
        if len(without):
            self._refactorise(without)
        before = self.conditions
        near = (self.gradient.abs() > NEAR * before.limit(self.multiplier)) & ~before.active(self.w)
        self.problem, self.conditions = problem, Conditions.of(problem)
        now = self.conditions
        same = (before.curvature == now.curvature) & (before.threshold == now.threshold) & (before.free == now.free)
        self.stale |= ~same.all(1) if torch.equal(before.ball, now.ball) else torch.ones_like(self.stale)
        slots = self.tableau.slots
        slots.kink = torch.where(slots.column >= 0, now.kink.gather(1, slots.column.clamp(min=0)), torch.inf)
        self.arrived = torch.zeros_like(self.arrived)
        feasible = problem.feasible(self.w)
        held, self.w = (self.w != 0) & (feasible == 0), feasible
        self.pending |= held & ~self.watched
        self._hold(slots.active)
        lasting = torch.nonzero(~self.stale)[:, 0]
        if len(lasting):
            soon = self._reaching_zero(lasting)
            soon |= (near & (self.gradient.abs() > now.limit(self.multiplier)))[lasting]
            self.pending[lasting] |= soon & ~self.watched[lasting]

    def certify(self) -> Certificate:
        """Return objective and gap of the present coefficients, whose gradient the next iteration starts from."""
        certificate = certify(self.problem, self.w, self.multiplier if self.conditions.has_ball else None)
        self.gradient = certificate.gradient
        return certificate

    def wrongly_zero(self) -> Tensor:
        """Say which rows are at zero though a column wants in, (r,): within the tolerance zero need not be right."""
        limit = self.conditions.limit(self.multiplier)
        wanted = (self.gradient.abs() > (1 + VIOLATION) * limit + LEAST_VIOLATION).any(1)
        return ~self.w.any(1) & wanted

    def improve(self) -> Tensor:
        """Do one iteration, and say where more than digits has changed, (r,)."""
        limit = self.conditions.limit(self.multiplier)
        entering = self._violating(limit)
        changed = entering.any(1)
        entering &= ~self._push_in(entering & (limit == 0))
        large = self._too_large()
        self.undecided |= self.watched & (self.stale & ~large)[:, None]
        rebuilt = torch.nonzero(self.stale | large)[:, 0]
        if len(rebuilt):
            self._refactorise(rebuilt)
        fresh = self.pending | entering
        self.pending = torch.zeros_like(fresh)
        if len(rebuilt):
            fresh[rebuilt] |= self.undecided[rebuilt] | self._reaching_zero(rebuilt)
        # What nothing holds at zero is worth watching only for where its penalty bends.
        self._watch(fresh & ~self.watched & ~(self.conditions.free & ~self.conditions.bending))
        return self._follow() | changed

    def _push_in(self, pushed: Tensor) -> Tensor:
        """Put columns of a slack ball in that no penalty holds, all at once: a homotopy would turn about at once."""
        if bool(pushed.any()):
            least = torch.minimum(self.gradient.abs(), self.conditions.radius / self.conditions.ball)
            share = PUSH / pushed.sum(1, keepdim=True).clamp(min=1)
            self.w = torch.where(pushed, (share * least).copysign(self.gradient), self.w)
            self.stale |= pushed.any(1)
            self.gradient = self.problem.residuals(self.w)[1]
        return pushed

    def _violating(self, limit: Tensor) -> Tensor:
        """Return the columns at zero whose gradients violate the limit, the worst if there are many, as a mask."""
        violating = torch.zeros_like(self.watched)
        if not bool(self.arrived.any()):
            return violating
        excess = self.gradient.abs() - limit
        violating = (excess > VIOLATION * limit + LEAST_VIOLATION) & ~self.conditions.active(self.w) & ~self.watched
        violating &= self.arrived[:, None]
        most = self.w.count_nonzero(1).clamp(min=ENTER_LEAST)
        for i in torch.nonzero(violating.sum(1) > most)[:, 0].tolist():
            relative = torch.where(violating[i], excess[i] / (limit[i] + 1e-300), -torch.inf)
            violating[i] = False
            violating[i, relative.topk(int(most[i])).indices] = True
        return violating

    def _too_large(self) -> Tensor:
        return self.watched.sum(1) > (WATCHED_SHARE * self.w.count_nonzero(1)).clamp(min=MOST_WATCHED)

    def _refactorise(self, rows: Tensor) -> None:
        """Give rows new bases, of the columns that are in."""
        if self._thin_out(rows):
            self.gradient = self.problem.residuals(self.w)[1]
        w, conditions = self.w[rows], self.conditions
        # A ball that nothing is in is not tight.
        self.multiplier[rows] *= (w * conditions.ball != 0).any(1)
        begun = time.thread_time()
        active, curvature = conditions.active(self.w)[rows], conditions.piece(self.w)[2][rows]
        bases = Bases.of(self.problem.design, active, w.sign() * conditions.ball, curvature)
        self.factor_seconds += time.thread_time() - begun
        tableau = Tableau.first(bases.first_table())
        tableau.pivot(torch.where(self.multiplier[rows] > 0, BALL, SPARE))
        place = torch.full_like(self.place[rows], -1)
        at = torch.nonzero(bases.real)
        place[at[:, 0], bases.columns[bases.real]] = at[:, 1]
        self.place[rows], self.watched[rows] = place, False
        if len(rows) == len(self.w):
            self.bases, self.tableau = bases, tableau
        else:
            self.bases.put(rows, bases)
            self.tableau.put(rows, tableau)
        self.stale[rows] = False

    def _thin_out(self, rows: Tensor) -> bool:
        """Take the smallest coefficients out where there are nearly as many as samples; they are undecided then."""
        m = self.problem.design.n_samples
        if m is None:
            return False
        most = m if m < BASE_LEAST else int(BASE_SHARE * m)
        free, curvature = self.conditions.free[rows], self.conditions.piece(self.w)[2][rows]
        held = torch.where(free, 0.0, self.w[rows].abs())
        room = most - free.sum(1)
        many = (room > 0) & (held.count_nonzero(1) > room) & ~(curvature > 0).any(1)
        for i, size, most in zip(rows[many].tolist(), held[many], room[many].tolist(), strict=True):
            out = (size > 0) & (size < size.topk(most).values[-1])
            self.w[i, out], self.undecided[i, out] = 0.0, True
        return bool(many.any())

    def _reaching_zero(self, rows: Tensor) -> Tensor:
        """Return the base columns that a Newton step brings to zero, the first if there are many, (len(rows), k)."""
        whole, conditions = len(rows) == len(self.w), self.conditions
        bases = self.bases if whole else self.bases.select(rows)
        columns, w = bases.columns, self.w[rows].gather(1, bases.columns)
        residual = (self.gradient - conditions.optimal_gradient(self.w, self.multiplier))[rows].gather(1, columns)
        step = bases.encode(torch.where(bases.real, residual, 0.0)[:, None])
        if conditions.has_ball:
            normal, tight = bases.border[:, :1], self.multiplier[rows] > 0
            missing = conditions.ball_value(self.w, self.multiplier, self.multiplier > 0)[1][rows]
            along = bases.inner(normal, torch.cat([step, normal], dim=1))[:, 0]
            multiplier = torch.where(tight, (along[:, 0] - missing) / along[:, 1], 0.0)
            step = step - normal * multiplier[:, None, None]
        move = bases.decode(step)[:, 0]
        stopping = (conditions.kink[rows].gather(1, columns) > 0) | (conditions.ball[columns] > 0)
        reach = torch.where(bases.real & (move * w < 0) & stopping, w.abs() / move.abs(), torch.inf)
        soon = _least(reach, FLIP_REACH)
        result = torch.zeros_like(self.watched[rows])
        row = torch.arange(len(rows), device=rows.device)[:, None].expand_as(columns)
        result[row[soon], columns[soon]] = True
        return result

    def _watch(self, fresh: Tensor) -> None:
        """Add columns to the tableaux."""
        counts = fresh.sum(1)
        if not int(counts.max()):
            return
        column, real = compressed(fresh, counts)
        column = torch.where(real, column, -1)
        slots = self._slots(column)
        curvature = torch.where(slots.threshold == 0, slots.curvature, 0.0)
        at, entries, corner = self.bases.watch(column, slots.place, curvature)
        self.tableau.extend(at, entries, corner, slots)
        self.watched |= fresh
        self._hold(slots.active, at, slots.column)

    def _slots(self, column: Tensor) -> Slots:
        """Return the slots of columns (r, f), −1 for none; those of the base count as in."""
        slots, conditions = Slots.empty(column.shape[0], column.shape[1], column.device), self.conditions
        real, index = column >= 0, column.clamp(min=0)
        slots.column, slots.place = column, torch.where(real, self.place.gather(1, index), -1)
        slots.active = slots.place >= 0
        slots.kink = torch.where(real, conditions.kink.gather(1, index), torch.inf)
        slots.curvature, slots.threshold = (
            torch.where(real, a.gather(1, index), 0.0) for a in (conditions.curvature, conditions.threshold)
        )
        slots.ball = torch.where(real, conditions.ball[index], 0.0)
        if self.bases.normal.shape[1]:
            slots.normal = torch.where(slots.active, self.bases.normal.gather(1, slots.place.clamp(min=0)), 0.0)
        return slots

    def _hold(self, active: Tensor, at: Tensor | None = None, column: Tensor | None = None) -> None:
        """Hold those of the active slots ``at`` (all when left out), whose columns are these, that are at zero."""
        column = self.tableau.slots.column if column is None else column
        held = active & (column >= 0) & (self.w.gather(1, column.clamp(min=0)) == 0)
        row, slots = torch.arange(len(held), device=held.device), []
        while bool(held.any()):
            first = held.int().argmax(1)
            slots.append(torch.where(held.any(1), first if at is None else at[row, first], SPARE))
            held[row, first] = False
        self.tableau.pivot(*slots)

    def _follow(self) -> Tensor:
        """Follow the optimum of every row to where it leads, and say where more than digits has changed."""
        w, mu, bases, slots, conditions = self.w, self.multiplier, self.bases, self.tableau.slots, self.conditions
        at_zero = conditions.admissible_gradient(self.gradient, mu)
        optimal = torch.where(conditions.active(w), conditions.optimal_gradient(w, mu), at_zero)
        residual = self.gradient - optimal
        bent, _, curvature = conditions.piece(w)
        real, index, inside = slots.column >= 0, slots.column.clamp(min=0), slots.place >= 0
        value = torch.where(slots.active, w.gather(1, index), optimal.gather(1, index))
        slots.value = torch.where(real, value, 0.0)
        slots.bent = real & slots.active & bent.gather(1, index)
        rate = torch.where(real & ~inside, residual.gather(1, index), 0.0)
        slots.value[:, BALL], rate[:, BALL] = conditions.ball_value(w, mu, slots.active[:, BALL])
        encoded = bases.encode(torch.where(bases.real, residual.gather(1, bases.columns), 0.0)[:, None])
        rate -= bases.inner(bases.border, encoded)[:, :, 0]
        rate[:, SPARE] = 0.0
        if not conditions.has_ball:
            rate[:, BALL] = 0.0
        kept = self.tableau.select(torch.arange(len(w), device=w.device))
        reached, stale = follow(self.tableau, rate, EVENTS * rate.shape[1])
        new, new_mu = self._end(optimal, curvature, encoded * reached[:, None, None])
        return self._accept(kept, new, new_mu, reached, stale)

    def _end(self, start: Tensor, curvature: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients and μ at which the homotopies have ended.

        Parameters
        ----------
        start, curvature : (r, k) tensors
            The gradients from which they began, and the curvature of the penalty there.
        encoded : (r, 1, n) tensor
            How far the gradients on the base have moved, t·ρ_A, encoded.
        """
        w, mu, bases, slots, conditions = self.w, self.multiplier, self.bases, self.tableau.slots, self.conditions
        real, index, inside = slots.column >= 0, slots.column.clamp(min=0), slots.place >= 0
        new_mu = torch.where(slots.active[:, BALL], slots.value[:, BALL], 0.0) if conditions.has_ball else mu
        coefficient = torch.where(slots.active, slots.value, 0.0)
        move = coefficient - w.gather(1, index)
        force = start.gather(1, index) - conditions.slot_gradient(slots, new_mu)
        force += slots.normal * (new_mu - mu)[:, None]
        force += torch.where(inside, curvature.gather(1, index), 0.0) * move
        z = torch.where(real, torch.where(inside, force, move), 0.0)
        z[:, BALL] = new_mu - mu
        right = torch.baddbmm(encoded, z[:, None], bases.border, alpha=-1)
        base_move = torch.where(bases.real, bases.decode(right)[:, 0], 0.0)
        new = torch.where(self.place >= 0, w + torch.zeros_like(w).scatter_add_(1, bases.columns, base_move), 0.0)
        row = torch.arange(len(new), device=new.device)[:, None].expand_as(real)
        new[row[real], slots.column[real]] = coefficient[real]
        return new, new_mu

    def _accept(self, kept: Tableau, new: Tensor, mu: Tensor, reached: Tensor, stale: Tensor) -> Tensor:
        """Take the ends of the homotopies, but for rows that have gone astray, and say where more has changed."""
        passed, crossed = self.conditions.passed(self.w, new, mu)
        # What was watched has changed sides by an event, and what is outside the base is at zero.
        passed, crossed = passed & ~self.watched, crossed & ~self.watched & (self.place >= 0)
        unseen = passed | crossed
        most = (ASTRAY_SHARE * self.w.count_nonzero(1)).clamp(min=ASTRAY_LEAST)
        astray = unseen.sum(1) > most
        back = torch.nonzero(astray)[:, 0]
        if len(back):
            move = (new[back] - self.w[back]).abs()
            size = self.w[back].abs()
            way = torch.where(crossed[back], (self.conditions.threshold[back] - size).abs(), size)
            reach = torch.where(unseen[back], way / move, torch.inf)
            unseen[back] = _least(reach, torch.inf, self.w[back].count_nonzero(1))
            self.tableau.put(back, kept.select(back))
        new = torch.where(passed, 0.0, torch.where(crossed, self.conditions.threshold.copysign(new), new))
        changed = ((new != 0) != (self.w != 0)).any(1) | unseen.any(1) | (reached < 1)
        self.undecided |= unseen
        self.pending = unseen
        self.arrived = (reached >= 1) & ~unseen.any(1)
        # The base has the old pieces of what has crossed to another one.
        self.stale |= (stale | crossed.any(1)) & ~astray
        self.w = torch.where(astray[:, None], self.w, new)
        self.multiplier = torch.where(astray, self.multiplier, mu)
        return changed


def _least(reach: Tensor, bound: float, counts: Tensor | None = None) -> Tensor:
    """Return what is below the bound in every row, the least of it if there is much, as a mask."""
    if not reach.shape[1]:
        return reach < bound
    counts = torch.full_like(reach[:, 0], reach.shape[1]) if counts is None else counts
    most = (FLIP_SHARE * counts).long().clamp(min=FLIP_LEAST, max=reach.shape[1])
    largest = reach.sort(1).values.gather(1, most[:, None] - 1)
    return (reach < bound) & (reach <= largest)
