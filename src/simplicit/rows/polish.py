r"""The polish leads from nearly the right support to the exact solution: a parametric active set on all rows at once.

An iteration perturbs the gradients such that the present point is optimal, and follows the optimum to the true
gradients (``homotopy``), while the watched columns of the ``working_set`` change sides and the others keep theirs. At
its end

- columns of the base that nobody watched may have passed zero: they are watched from the next iteration on, at zero.
  Where many did, the row has gone astray: it goes back to where it was, and what passes zero first is watched;
- columns outside that nobody watched may violate |gradient| ≤ p + μa: they are watched from the next iteration on.

Without either the row is solved, up to rounding, of which one more iteration without events takes most. Since on one
base what is watched only grows, there are finitely many iterations, whatever the rank of Φ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.rows.admm import Start
from simplicit.rows.certificate import Certificate, certify
from simplicit.rows.condense import Bases
from simplicit.rows.conditions import Conditions
from simplicit.rows.homotopy import follow
from simplicit.rows.problem import RowProblem
from simplicit.rows.tableau import BALL, SPARE, Tableau
from simplicit.rows.working_set import WorkingSet, least_of

#: A row has gone astray where more unwatched columns than this, and than a share of the support, have passed zero. With
#: 2 few has a tenth more events and factorisations, with 32 nothing changes; .25 of the support saves hard a fifth.
ASTRAY_LEAST, ASTRAY_SHARE = 8, 0.05
#: In an iteration no more columns outside are watched than this, or than are in; with 16 and 256 the family changes by
#: less than a tenth.
ENTER_LEAST = 64
#: A violation below this share of the limit, or below this, is rounding; gradients are of order 1 at most.
VIOLATION, LEAST_VIOLATION = 1e-10, 1e-15
#: With a new penalty those columns are watched at once whose gradients are at least this share of the old limit. With
#: .8 the path saves 6 of 47 factorisations, with .99 2.
NEAR = 0.95
#: What a column begins with that comes in without a homotopy, as a share of the most that it may have: small, so that
#: little of it must be undone, and far from rounding. The family does not depend on it.
PUSH = 1e-3
#: Events of a homotopy, per slot, at most: the family needs less than 5.
EVENTS = 20


@dataclass(eq=False)
class Polish(WorkingSet):
    """These row problems are on the way to their solutions."""

    pending: Tensor  # columns that are watched from the next iteration on, an (r, k) mask
    arrived: Tensor  # rows whose gradient is that of the end of a homotopy, an (r,) mask

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

    def continue_with(self, problem: RowProblem) -> None:
        """Go on with another penalty or ball, from the solution under the one before."""
        without = torch.nonzero(self.bases.watched == 0)[:, 0]
        if len(without):
            self.refactorise(without)
        before = self.conditions
        near = (self.gradient.abs() > NEAR * before.limit(self.multiplier)) & ~before.active(self.w)
        self.problem, self.conditions = problem, Conditions(problem)
        now = self.conditions
        same = (before.curvature == now.curvature) & (before.threshold == now.threshold) & (before.free == now.free)
        self.stale |= ~same.all(1) if torch.equal(before.ball, now.ball) else torch.ones_like(self.stale)
        slots = self.tableau.slots
        slots.kink = torch.where(slots.real, slots.at_columns(now.kink), torch.inf)
        self.arrived = torch.zeros_like(self.arrived)
        feasible = problem.feasible(self.w)
        held, self.w = (self.w != 0) & (feasible == 0), feasible
        self.pending |= held & ~self.watched
        self.hold(slots)
        lasting = torch.nonzero(~self.stale)[:, 0]
        if len(lasting):
            soon = self.reaching_zero(lasting)
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
        large = self.too_large()
        self.undecided |= self.watched & (self.stale & ~large)[:, None]
        rebuilt = torch.nonzero(self.stale | large)[:, 0]
        if len(rebuilt):
            self.refactorise(rebuilt)
        fresh = self.pending | entering
        self.pending = torch.zeros_like(fresh)
        if len(rebuilt):
            fresh[rebuilt] |= self.undecided[rebuilt] | self.reaching_zero(rebuilt)
        # What nothing holds at zero is worth watching only for where its penalty bends.
        self.watch(fresh & ~self.watched & ~(self.conditions.free & ~self.conditions.bending))
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

    def _follow(self) -> Tensor:
        """Follow the optimum of every row to where it leads, and say where more than digits has changed."""
        w, mu, bases, slots, conditions = self.w, self.multiplier, self.bases, self.tableau.slots, self.conditions
        at_zero = conditions.admissible_gradient(self.gradient, mu)
        optimal = torch.where(conditions.active(w), conditions.optimal_gradient(w, mu), at_zero)
        residual = self.gradient - optimal
        bent, _, curvature = conditions.piece(w)
        value = torch.where(slots.active, slots.at_columns(w), slots.at_columns(optimal))
        slots.value = torch.where(slots.real, value, 0.0)
        slots.bent = slots.real & slots.active & slots.at_columns(bent)
        rate = torch.where(slots.real & ~slots.inside, slots.at_columns(residual), 0.0)
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

        They began from the gradients ``start`` (r, k), with this curvature of the penalty (r, k); the gradients on the
        base have moved by t·ρ_A, ``encoded`` (r, 1, n).
        """
        w, mu, bases, slots, conditions = self.w, self.multiplier, self.bases, self.tableau.slots, self.conditions
        new_mu = torch.where(slots.active[:, BALL], slots.value[:, BALL], 0.0) if conditions.has_ball else mu
        coefficient = torch.where(slots.active, slots.value, 0.0)
        move = coefficient - slots.at_columns(w)
        force = slots.at_columns(start) - conditions.slot_gradient(slots, new_mu)
        force += slots.normal * (new_mu - mu)[:, None]
        force += torch.where(slots.inside, slots.at_columns(curvature), 0.0) * move
        z = torch.where(slots.real, torch.where(slots.inside, force, move), 0.0)
        z[:, BALL] = new_mu - mu
        right = torch.baddbmm(encoded, z[:, None], bases.border, alpha=-1)
        base_move = torch.where(bases.real, bases.decode(right)[:, 0], 0.0)
        new = torch.where(self.place >= 0, w + torch.zeros_like(w).scatter_add_(1, bases.columns, base_move), 0.0)
        row, at = torch.nonzero(slots.real, as_tuple=True)
        new[row, slots.column[row, at]] = coefficient[row, at]
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
            unseen[back] = least_of(reach, torch.inf, self.w[back].count_nonzero(1))
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
