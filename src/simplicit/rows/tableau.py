r"""Condensed tableaux of many small quadratic programmes side by side, and their principal pivots.

Of every row problem a few variables are watched: the multiplier μ of the ball, columns that may leave the support, and
columns that may enter it. All others follow from these (``condense``), so that what is left is

    y = t·r − T z,     0 ≤ t ≤ 1,     T symmetric.

A variable rests while z = 0; a pivot (sweep) swaps the parts of y and z:

    a column of the base        y is the change of its coefficient,  z that of the force that holds it at zero
    a column outside the base   y is the change of its gradient,     z that of its coefficient
    the ball                    y is the change of its slack,        z that of μ

``path`` follows the optimum over t; here is only the algebra. Every operation changes T by a matrix of rank one, in all
rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BALL", "SPARE", "Couplings", "Pivots", "Slots", "Tableau"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

#: The slot of μ, and one that stands for nothing: on it pivot the rows that have nothing to do.
BALL, SPARE = 0, 1
#: At most so many changes of rank one wait.
WAITING = 16


@dataclass
class Slots:
    """The watched variables of r rows, tensors (r, q); rows with fewer than q are filled up with slots that rest.

    Parameters
    ----------
    column : index tensor
        The column of the design, −1 for none.
    place : index tensor
        Its place in the base of the row, −1 outside.
    kink, curvature, threshold, ball : tensors
        p, c, τ and a.
    normal : tensor
        s·a as it stands in the base, 0 outside.
    active : boolean tensor
        Whether the coefficient may move; for the ball, whether it is tight.
    bent : boolean tensor
        Whether an active coefficient is beyond τ.
    value : tensor
        The coefficient where active, else the gradient; for the ball, μ where tight, else the slack.
    """

    column: Tensor
    place: Tensor
    kink: Tensor
    curvature: Tensor
    threshold: Tensor
    ball: Tensor
    normal: Tensor
    active: Tensor
    bent: Tensor
    value: Tensor

    @classmethod
    def empty(cls, rows: int, count: int, like: Tensor) -> Slots:
        """Slots without a variable, on the device of ``like``."""

        def filled(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full((rows, count), value, dtype=dtype, device=like.device)

        return cls(
            column=filled(-1, torch.int64),
            place=filled(-1, torch.int64),
            kink=filled(torch.inf),
            curvature=filled(0),
            threshold=filled(0),
            ball=filled(0),
            normal=filled(0),
            active=filled(False, torch.bool),
            bent=filled(False, torch.bool),
            value=filled(0),
        )

    @property
    def pivoted(self) -> Tensor:
        return self.active ^ (self.place >= 0)

    def select(self, rows: Tensor) -> Slots:
        """A copy of some of the rows."""
        return Slots(*(part[rows] for part in self._parts()))

    def write(self, index: tuple[Tensor, ...], other: Slots) -> None:
        """Copy ``other`` to the places ``index``, rows or (row, slot)."""
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            mine[index] = theirs

    def widened(self, count: int) -> Slots:
        """With so many slots more."""
        rest = Slots.empty(len(self.column), count, self.column)
        return Slots(*(torch.cat(pair, dim=1) for pair in zip(self._parts(), rest._parts(), strict=True)))

    @classmethod
    def joined(cls, parts: Sequence[Slots]) -> Slots:
        """Slots of the same number below each other."""
        return cls(*(torch.cat(each) for each in zip(*(part._parts() for part in parts), strict=True)))

    def _parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))


class Tableau:
    """T (r, q, q) and the slots of r rows.

    Parameters
    ----------
    table : (r, 2, 2) tensor
        T of the ball and the spare slot.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.slots = Slots.empty(len(table), 2, table)

    @property
    def shape(self) -> tuple[int, int]:
        return self.table.shape[0], self.table.shape[1]

    @classmethod
    def joined(cls, parts: Sequence[Tableau]) -> Tableau:
        """Tableaux below each other, the narrower ones filled up."""
        q = max(part.shape[1] for part in parts)
        whole = cls(torch.cat([_filled_up(part.table, q) for part in parts]))
        whole.slots = Slots.joined([part.slots.widened(q - part.shape[1]) for part in parts])
        return whole

    def copy(self, rows: Tensor) -> Tableau:
        """A copy of some of the rows."""
        part = Tableau(self.table[rows])
        part.slots = self.slots.select(rows)
        return part

    def put(self, rows: Tensor, other: Tableau) -> None:
        """Write other tableaux in the places ``rows``; they may have fewer slots."""
        q = self.shape[1]
        self.table[rows] = _filled_up(other.table, q)
        self.slots.write((rows,), other.slots.widened(q - other.shape[1]))

    def swept(self, entries: Tensor) -> Tensor:
        """What the pivots so far make of columns (r, q, f) of the tableau as it was at first."""
        pivoted = self.slots.pivoted[:, :, None]
        product = self.table @ torch.where(pivoted, entries, 0.0)
        return torch.where(pivoted, -product, entries - product)

    def extend(self, at: Tensor, entries: Tensor, corner: Tensor, slots: Slots) -> None:
        """Watch more variables, which rest.

        Parameters
        ----------
        at : (r, f) index tensor
            Their slots, one after another, and SPARE after them where a row has fewer than f.
        entries : (r, q, f) tensor
            Their columns of the first tableau, at the slots that are there.
        corner : (r, f, f) tensor
            The same among themselves.
        slots : Slots
            (r, f).
        """
        across = self.swept(entries)
        held = torch.where(self.slots.pivoted[:, :, None], entries, 0.0)
        corner = corner - held.transpose(1, 2) @ across
        (rows, q), most = self.shape, int(at.max()) + 1
        if most > q:
            table = self.table.new_zeros(rows, most, most)
            table[:, :q, :q] = self.table
            self.table, self.slots = table, self.slots.widened(most - q)
        corner = 0.5 * (corner + corner.transpose(1, 2))
        starts, counts = at[:, 0].tolist(), (at != SPARE).sum(1).tolist()
        for table, line, block, first, count in zip(self.table, across, corner, starts, counts, strict=True):
            own = slice(first, first + count)
            table[own, :q] = line[:, :count].T
            table[:q, own] = line[:, :count]
            table[own, own] = block[:count, :count]
        self.slots.write((torch.arange(rows, device=at.device)[:, None], at), slots)

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


def _filled_up(table: Tensor, q: int) -> Tensor:
    """With slots that rest, up to q."""
    count, f, _ = table.shape
    if f == q:
        return table
    wide = torch.eye(q, dtype=table.dtype, device=table.device).repeat(count, 1, 1)
    wide[:, :f, :f] = table
    return wide


class Pivots:
    """Pivots of many tableaux side by side: each is ``table`` − Σᵢ fᵢ uᵢuᵢᵀ, the terms that wait.

    A change of rank one passes all of T through memory; what waits is subtracted together, by one product of matrices.
    A line that a change replaces is written to it at once, and what waits is zero there. The table stays on its
    device, all else is small and is NumPy. Slots are index arrays (r,), rates the right-hand sides r, arrays (r, q).

    Parameters
    ----------
    table : (r, q, q) tensor
        Changed in place; T after ``settle``.
    waiting : int
        At most so many terms wait.
    """

    def __init__(self, table: Tensor, waiting: int = WAITING) -> None:
        rows, q, _ = table.shape
        self.table, self.waiting, self.count = table, waiting, 0
        self.near = table.numpy() if table.device.type == "cpu" else None
        self.vectors, self.factors = np.empty((rows, waiting, q)), np.empty((rows, waiting))
        self.row = np.arange(rows)

    def settle(self) -> None:
        """Subtract what waits."""
        if self.count:
            vectors, factors = self.vectors[:, : self.count], self.factors[:, : self.count, None]
            right, left = (torch.from_numpy(a).to(self.table.device) for a in (vectors, vectors * factors))
            self.table.baddbmm_(left.transpose(1, 2), right, alpha=-1)
            self.count = 0

    def select(self, rows: Mask) -> Pivots:
        """Some of the rows, apart from the others; nothing may wait."""
        assert not self.count
        return Pivots(self.table[torch.from_numpy(rows).to(self.table.device)], self.waiting)

    def line(self, slot: Index | int) -> Array:
        """Of T, one line of every row, (r, q)."""
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
            couplings.before(rate, line, ball, slot)
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
            couplings.after(rate, swapped, ball, slot)
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
        """One term more."""
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
    """What pivots on columns outside the base change in the ball's normal: it sees a column while that is in.

    S_jμ grows in the tableau before all pivots. Where μ is pivoted, that is T ← LTLᵀ with L = I − by·e_j e_μᵀ.

    Parameters
    ----------
    tight : (r,) boolean array
        Whether μ is pivoted.
    entering, leaving : (r,) arrays
        By how much S_jμ grows before the pivot and after it: s·a of a column that enters, −s·a of one that leaves, 0
        of all others and in rows that pivot on BALL or SPARE.
    """

    tight: Mask
    entering: Array
    leaving: Array

    def before(self, rate: Array, line: Array, ball: Array, slot: Index) -> None:
        """Of columns that enter: their lines of T and of μ, changed in place, and r."""
        self._apply(rate, line, ball, slot, self.entering)

    def after(self, rate: Array, line: Array, ball: Array, slot: Index) -> None:
        """Of columns that have left."""
        self._apply(rate, line, ball, slot, self.leaving)

    def _apply(self, rate: Array, line: Array, ball: Array, slot: Index, by: Array) -> None:
        row, through = np.arange(len(slot)), np.where(self.tight, by, 0.0)
        line -= through[:, None] * ball
        line[row, slot] -= through * line[:, BALL]
        line[:, BALL] += by - through
        ball[row, slot] = line[:, BALL]
        rate[row, slot] -= through * rate[:, BALL]
