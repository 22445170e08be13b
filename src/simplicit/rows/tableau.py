r"""Condensed tableaux of many small quadratic programmes lie side by side, and principal pivots change them.

Of every row problem a few variables are watched: the multiplier μ of the ball, columns that may leave the support, and
columns that may enter it. All others follow from these (``condense``), so that what is left is

    y = t·r − T z,     0 ≤ t ≤ 1,     T symmetric.

A variable rests while z = 0; a pivot (sweep) swaps the parts of y and z:

    a column of the base        y is the change of its coefficient,  z that of the force that holds it at zero
    a column outside the base   y is the change of its gradient,     z that of its coefficient
    the ball                    y is the change of its slack,        z that of μ

``homotopy`` follows the optimum over t; here is only the algebra. Every operation changes T by a matrix of rank one, in
all rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Array, Batch, Index, Mask, padded

#: The slot of μ, and one that stands for nothing: on it pivot the rows that have nothing to do.
BALL, SPARE = 0, 1
#: At most so many changes of rank one wait. On hard one at a time makes the polish up to a third slower, 64 no faster.
WAITING = 16


@dataclass
class Slots(Batch):
    """r rows have their watched variables in slots, tensors (r, q); fewer than q are filled up with slots that rest.

    The value is the coefficient where active, else the gradient; of the ball it is μ where tight, else the slack.
    """

    column: Tensor = field(metadata=padded(-1))  # of the design, −1 for none
    place: Tensor = field(metadata=padded(-1))  # in the base of the row, −1 outside
    kink: Tensor = field(metadata=padded(np.inf))  # p
    curvature: Tensor = field(metadata=padded(0.0))  # c
    threshold: Tensor = field(metadata=padded(0.0))  # τ
    ball: Tensor = field(metadata=padded(0.0))  # a
    normal: Tensor = field(metadata=padded(0.0))  # s·a as it stands in the base, 0 outside
    active: Tensor = field(metadata=padded(False))  # whether the coefficient may move, or the ball is tight
    bent: Tensor = field(metadata=padded(False))  # whether an active coefficient is beyond τ
    value: Tensor = field(metadata=padded(0.0))

    @classmethod
    def empty(cls, rows: int, count: int, device: torch.device) -> Slots:
        """Make (rows, count) slots without a variable."""
        index, number, mask = (
            torch.empty(rows, 0, dtype=dtype, device=device) for dtype in (torch.int64, torch.float64, torch.bool)
        )
        none = cls(index, index, number, number, number, number, number, mask, mask, number)
        none.widen(count)
        return none

    @property
    def real(self) -> Tensor:
        """This says which slots have a column, (r, q)."""
        return self.column >= 0

    @property
    def inside(self) -> Tensor:
        """This says which variables are columns of the base, (r, q)."""
        return self.place >= 0

    @property
    def pivoted(self) -> Tensor:
        """This says which variables are swapped, (r, q)."""
        return self.active ^ self.inside

    def at_columns(self, values: Tensor) -> Tensor:
        """Return the values (r, k) of the columns, (r, q), and any where there is none."""
        return values.gather(1, self.column.clamp(min=0))


@dataclass
class Tableau(Batch):
    """r rows have their T and their slots; a slot without a variable has zeros in T."""

    table: Tensor = field(metadata=padded(0.0))  # T, (r, q, q)
    slots: Slots

    @classmethod
    def first(cls, table: Tensor) -> Tableau:
        """Begin with T of the ball and the spare slot, (r, 2, 2)."""
        return cls(table, Slots.empty(len(table), 2, table.device))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape is (r, q)."""
        return self.table.shape[0], self.table.shape[1]

    def swept(self, entries: Tensor) -> Tensor:
        """Return what the pivots so far make of columns (r, q, f) of the tableau as it was at first."""
        pivoted = self.slots.pivoted[:, :, None]
        product = self.table @ torch.where(pivoted, entries, 0.0)
        return torch.where(pivoted, -product, entries - product)

    def extend(self, at: Tensor, entries: Tensor, corner: Tensor, slots: Slots) -> None:
        """Watch more variables, which rest, in slots (r, f) that come after those that are there.

        ``at`` (r, f) says where, SPARE where a row has fewer than f; ``entries`` (r, q, f) and ``corner`` (r, f, f) are
        their columns of the first tableau, at the slots that are there and among themselves.
        """
        across = self.swept(entries)
        held = torch.where(self.slots.pivoted[:, :, None], entries, 0.0)
        corner = corner - held.transpose(1, 2) @ across
        (rows, q), most = self.shape, int(at.max()) + 1
        if most > q:
            self.widen(most)
        corner = 0.5 * (corner + corner.transpose(1, 2))
        starts, counts = at[:, 0].tolist(), (at != SPARE).sum(1).tolist()
        for table, line, block, first, count in zip(self.table, across, corner, starts, counts, strict=True):
            own = slice(first, first + count)
            table[own, :q] = line[:, :count].T
            table[:q, own] = line[:, :count]
            table[own, own] = block[:count, :count]
        self.slots.put((torch.arange(rows, device=at.device)[:, None], at), slots)

    def pivot(self, *slots: Tensor) -> None:
        """Pivot one slot of every row, (r,), that is not active any more, or anew; and further ones after it.

        SPARE leaves a row as it is.
        """
        pivots, rate = Pivots(self.table), np.zeros(self.shape)
        row = torch.arange(len(rate), device=self.table.device)
        with np.errstate(all="ignore"):  # a row that is singular takes a new base
            for slot in slots:
                pivots.pivot(rate, slot.cpu().numpy(), self.slots.pivoted[row, slot].cpu().numpy())
                self.slots.active[row, slot] ^= slot != SPARE
            pivots.settle()


class Pivots:
    """Pivots change many tableaux side by side: each is ``table`` − Σᵢ fᵢ uᵢuᵢᵀ, the terms that wait.

    A change of rank one passes all of T through memory; what waits is subtracted together, by one product of matrices.
    A line that a change replaces is written to it at once, and what waits is zero there. The table (r, q, q) stays on
    its device, changes in place and is T after ``settle``; all else is small and is NumPy. Slots are index arrays (r,),
    rates the right-hand sides r, arrays (r, q).
    """

    def __init__(self, table: Tensor, waiting: int = WAITING) -> None:
        rows, q, _ = table.shape
        self.table, self.waiting, self.count = table, waiting, 0
        self.near = table.numpy() if table.device.type == "cpu" else None
        self.vectors, self.factors = np.empty((rows, waiting, q)), np.empty((rows, waiting))
        self.row = np.arange(rows)

    def settle(self) -> None:
        """Subtract what waits from the table."""
        if self.count:
            vectors, factors = self.vectors[:, : self.count], self.factors[:, : self.count, None]
            right, left = (torch.from_numpy(a).to(self.table.device) for a in (vectors, vectors * factors))
            self.table.baddbmm_(left.transpose(1, 2), right, alpha=-1)
            self.count = 0

    def line(self, slot: Index | int) -> Array:
        """Return one line of T of every row, (r, q)."""
        line: Array = self.table[self.row, slot].cpu().numpy() if self.near is None else self.near[self.row, slot]
        if not self.count:
            return line
        vectors, factors = self.vectors[:, : self.count], self.factors[:, : self.count]
        share = vectors[self.row, :, slot] * factors
        line -= (share[:, None] @ vectors)[:, 0]
        return line

    def pivot(self, rate: Array, slot: Index, back: Mask, couplings: Couplings | None = None) -> None:
        """Sweep one slot of every row in T and in r, or sweep it ``back``."""
        row, line = self.row, self.line(slot)
        if couplings is not None:
            ball = self.line(BALL)
            couplings.apply(couplings.entering, rate, line, ball, slot)
        own, speed = line[row, slot], rate[row, slot]
        scaled = line / own[:, None]
        rate -= scaled * speed[:, None]
        sign = np.where(back, -1.0, 1.0)
        rate[row, slot] = sign * speed / own
        swapped = scaled * sign[:, None]
        swapped[row, slot] = -1 / own
        if couplings is not None:
            ball -= scaled * line[:, BALL, None]
            ball[row, slot] = swapped[:, BALL]
            couplings.apply(couplings.leaving, rate, swapped, ball, slot)
        line[row, slot] = 0.0
        self._subtract(line, 1 / own)
        self._write(slot, swapped)

    def bend(self, rate: Array, slot: Index, change: Array) -> None:
        """Add to the curvature of the penalty at active columns (Sherman and Morrison)."""
        line = self.line(slot)
        factor = change / (1 - change * line[self.row, slot])
        rate += line * (factor * rate[self.row, slot])[:, None]
        self._subtract(line, -factor)

    def _subtract(self, vector: Array, factor: Array) -> None:
        """Let one term more wait."""
        if self.count == self.waiting:
            self.settle()
        self.vectors[:, self.count], self.factors[:, self.count] = vector, factor
        self.count += 1

    def _write(self, slot: Index, line: Array) -> None:
        """Replace the row and the column of one slot."""
        self.vectors[self.row, : self.count, slot] = 0.0
        if self.near is None:
            there = torch.from_numpy(line).to(self.table.device)
            self.table[self.row, slot] = self.table.transpose(1, 2)[self.row, slot] = there
        else:
            self.near[self.row, slot] = self.near[self.row, :, slot] = line


@dataclass(frozen=True, eq=False)
class Couplings:
    """The ball's normal sees a column outside the base while that is in, so that a pivot on it changes the normal.

    S_jμ grows in the tableau before all pivots. Where μ is pivoted, that is T ← LTLᵀ with L = I − by·e_j e_μᵀ. It grows
    by s·a of a column that enters, before the pivot, and by −s·a of one that leaves, after it; by 0 of all others and
    in rows that pivot on BALL or SPARE.
    """

    tight: Mask  # whether μ is pivoted, (r,)
    entering: Array  # by how much S_jμ grows before the pivot, (r,)
    leaving: Array  # and after it

    def apply(self, by: Array, rate: Array, line: Array, ball: Array, slot: Index) -> None:
        """Let S_jμ grow by so much, at the slots j: their lines of T and that of μ, and r, change in place."""
        row, through = np.arange(len(slot)), np.where(self.tight, by, 0.0)
        line -= through[:, None] * ball
        line[row, slot] -= through * line[:, BALL]
        line[:, BALL] += by - through
        ball[row, slot] = line[:, BALL]
        rate[row, slot] -= through * rate[:, BALL]
