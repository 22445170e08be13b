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

import torch
from torch import Tensor

__all__ = ["BALL", "SPARE", "Slots", "Tableau", "bend", "couple", "pivot"]

#: The slot of μ, and one that stands for nothing: on it pivot the rows that have nothing to do.
BALL, SPARE = 0, 1


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
            Their slots; SPARE where a row has fewer than f.
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
        table, row = self.table, torch.arange(rows, device=at.device)[:, None]
        table[row, at, :q] = across.transpose(1, 2)
        table.transpose(1, 2)[row, at, :q] = across.transpose(1, 2)
        table[row[:, :, None], at[:, :, None], at[:, None, :]] = 0.5 * (corner + corner.transpose(1, 2))
        table[:, SPARE] = table[:, :, SPARE] = 0.0
        table[:, SPARE, SPARE] = 1.0
        self.slots.write((row, at), slots)

    def pivot(self, slot: Tensor) -> None:
        """Pivot one slot of every row, (r,), that is not active any more, or anew; SPARE leaves a row as it is."""
        row = torch.arange(len(slot), device=slot.device)
        pivot(self.table, torch.zeros_like(self.slots.value), row, slot, self.slots.pivoted[row, slot])
        self.slots.active[row, slot] ^= slot != SPARE


def _filled_up(table: Tensor, q: int) -> Tensor:
    """With slots that rest, up to q."""
    count, f, _ = table.shape
    if f == q:
        return table
    wide = torch.eye(q, dtype=table.dtype, device=table.device).repeat(count, 1, 1)
    wide[:, :f, :f] = table
    return wide


def pivot(table: Tensor, rate: Tensor, row: Tensor, slot: Tensor, back: Tensor) -> None:
    """Sweep one slot of every row in T and in r, or sweep it ``back``; r and the arguments may be on the host."""
    column = table[row, slot]
    here, place, own_rows = column.to(rate.device), slot.to(rate.device), row.to(rate.device)
    own, speed = here[own_rows, place], rate[own_rows, place]
    scaled = here / own[:, None]
    rate.addcmul_(scaled, speed[:, None], value=-1)
    sign = 1.0 - 2.0 * back.to(rate.dtype)
    rate[own_rows, place] = sign * speed / own
    swapped = scaled * sign[:, None]
    swapped[own_rows, place] = -1 / own
    table.addcmul_(scaled.to(table.device)[:, :, None], column[:, None, :], value=-1)
    _write(table, row, slot, swapped)


def couple(table: Tensor, rate: Tensor, row: Tensor, slot: Tensor, tight: Tensor, by: Tensor) -> None:
    """Let the ball see columns outside the base, which rest, with normals larger by ``by``.

    S_jμ grows by it in the tableau before all pivots. Where μ is pivoted, that is T ← LTLᵀ with L = I − by·e_j e_μᵀ.
    """
    line, ball = table[row, slot].to(rate.device), table[:, BALL].to(rate.device)
    own_rows, place = row.to(rate.device), slot.to(rate.device)
    through = torch.where(tight, by, 0.0)
    line = line.addcmul(through[:, None], ball, value=-1)
    line[own_rows, place] -= through * line[:, BALL]
    line[:, BALL] += by - through
    _write(table, row, slot, line)
    rate[own_rows, place] -= through * rate[:, BALL]


def bend(table: Tensor, rate: Tensor, row: Tensor, slot: Tensor, change: Tensor) -> None:
    """Add to the curvature of the penalty at active columns (Sherman and Morrison)."""
    column = table[row, slot]
    here, own_rows, place = column.to(rate.device), row.to(rate.device), slot.to(rate.device)
    scaled = here * (change / (1 - change * here[own_rows, place]))[:, None]
    rate.addcmul_(scaled, rate[own_rows, place][:, None].clone())
    table.addcmul_(scaled.to(table.device)[:, :, None], column[:, None, :])


def _write(table: Tensor, row: Tensor, slot: Tensor, line: Tensor) -> None:
    """The row and the column of one slot."""
    line = line.to(table.device)
    table[row, slot] = line
    table.transpose(1, 2)[row, slot] = line
