r"""The working set of a row is its base, the columns of one factorisation, and the columns that are watched.

Every row has a *base*, the columns that were in when it was factorised, and *watches* some columns: those of the base
that may leave and those outside that may enter. The watched columns make the tableau (``condense``), on which
``polish`` works. On one base what is watched only grows, and as a rule one base serves a row to its end; a new one is
made where a tableau has grown too large, a base column has passed to another piece of its penalty, or rounding has
spoilt the old one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simplicit.rows.batch import Batch
from simplicit.rows.condense import Bases, compressed
from simplicit.rows.conditions import Conditions
from simplicit.rows.problem import RowProblem
from simplicit.rows.tableau import BALL, SPARE, Slots, Tableau

#: A tableau has grown too large with more slots than this, and than a share of the support. With half of the first few
#: factorises a third more, with twice a fifth less; with .4 of the support hard factorises twice as much.
MOST_WATCHED, WATCHED_SHARE = 96, 0.75
#: The base has no more columns than this share of the samples: with all of them the minimisers on it lie far away. With
#: .7 hard has a quarter more events, with .95 a sixth fewer. With fewer samples than the first number all may be in;
#: 10 and 200 change the family by a tenth at most.
BASE_LEAST, BASE_SHARE = 50, 0.85
#: Watched are base columns that a Newton step would bring to zero on less than so many times its way, at most a share
#: of them. With 1 and 3 times, and with .1 and .5 of them, the family changes by a tenth either way.
FLIP_REACH, FLIP_LEAST, FLIP_SHARE = 1.5, 16, 0.25


@dataclass(eq=False)
class WorkingSet(Batch):
    """It says where r rows are, and what of them is in, factorised and watched."""

    problem: RowProblem
    w: Tensor  # the coefficients, feasible but for rounding, (r, k)
    multiplier: Tensor  # μ, (r,)
    gradient: Tensor  # Φᵀ(z − Φw), (r, k)
    undecided: Tensor  # columns that are watched as soon as there is a new base, an (r, k) mask
    watched: Tensor  # columns that are, an (r, k) mask
    place: Tensor  # of the columns in the base, −1 outside, (r, k)
    stale: Tensor  # rows that need a new base, an (r,) mask
    bases: Bases
    tableau: Tableau
    factor_seconds: float = field(default=0.0, kw_only=True)  # of the processor, for whoever takes them and sets back

    def __post_init__(self) -> None:
        self.conditions = Conditions(self.problem)

    def too_large(self) -> Tensor:
        return self.watched.sum(1) > (WATCHED_SHARE * self.w.count_nonzero(1)).clamp(min=MOST_WATCHED)

    def refactorise(self, rows: Tensor) -> None:
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

    def reaching_zero(self, rows: Tensor) -> Tensor:
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
        soon = least_of(reach, FLIP_REACH)
        result = torch.zeros_like(self.watched[rows])
        row = torch.arange(len(rows), device=rows.device)[:, None].expand_as(columns)
        result[row[soon], columns[soon]] = True
        return result

    def watch(self, fresh: Tensor) -> None:
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
        self.hold(slots, at)

    def _slots(self, column: Tensor) -> Slots:
        """Return the slots of columns (r, f), −1 for none; those of the base count as in."""
        slots, conditions = Slots.empty(column.shape[0], column.shape[1], column.device), self.conditions
        slots.column, real = column, column >= 0
        slots.place = torch.where(real, slots.at_columns(self.place), -1)
        slots.active = slots.inside
        slots.kink = torch.where(real, slots.at_columns(conditions.kink), torch.inf)
        slots.curvature = torch.where(real, slots.at_columns(conditions.curvature), 0.0)
        slots.threshold = torch.where(real, slots.at_columns(conditions.threshold), 0.0)
        slots.ball = torch.where(real, conditions.ball[column.clamp(min=0)], 0.0)
        if self.bases.normal.shape[1]:
            slots.normal = torch.where(slots.active, self.bases.normal.gather(1, slots.place.clamp(min=0)), 0.0)
        return slots

    def hold(self, slots: Slots, at: Tensor | None = None) -> None:
        """Hold the active columns of slots, which are ``at`` these of the tableau, or all of it, that are at zero."""
        held = slots.active & slots.real & (slots.at_columns(self.w) == 0)
        row, pivots = torch.arange(len(held), device=held.device), []
        while bool(held.any()):
            first = held.int().argmax(1)
            pivots.append(torch.where(held.any(1), first if at is None else at[row, first], SPARE))
            held[row, first] = False
        self.tableau.pivot(*pivots)


def least_of(reach: Tensor, bound: float, counts: Tensor | None = None) -> Tensor:
    """Return what is below the bound in every row, the least of it if there is much, as a mask.

    Much is more than a share of the ``counts`` (r,), which are those of the columns when left out.
    """
    if not reach.shape[1]:
        return reach < bound
    counts = torch.full_like(reach[:, 0], reach.shape[1]) if counts is None else counts
    most = (FLIP_SHARE * counts).long().clamp(min=FLIP_LEAST, max=reach.shape[1])
    largest = reach.sort(1).values.gather(1, most[:, None] - 1)
    return (reach < bound) & (reach <= largest)
