r"""Exchanges that keep to a pattern: which pairs of columns may be exchanged, and the best one of each row.

With P = (H_SS)⁻¹, u = P H_Se and s the Schur complement, as in :mod:`~simplicit.training.support.exchange`, bringing e
in for p lowers f by

    gₑ²/sₑ − (w_p − u_p gₑ/sₑ)² / (P_pp + u_p²/sₑ)

Under a pattern p is of e's group, unless that has room still, so that of the products u_p few are needed: those of
columns that share a group. All of them together take N products of a row of P for every column outside, no more than an
update of P does. A few columns are tried first, those with the most to gain over the cheapest of their group;
where none of them gains, all pairs within groups are looked at, so that in the end no exchange within a group gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.training.support.pattern import Groups


@dataclass(frozen=True, eq=False)
class Within:
    """Rows with supports in a pattern: their ``support`` (n, d), and which ``groups`` have ``room`` (n, G)."""

    groups: Groups
    support: Tensor
    room: Tensor

    @classmethod
    def of(cls, groups: Groups, support: Tensor) -> Within:
        return cls(groups, support, groups.counts(support) < groups.most)

    def _roomy(self, columns: Tensor) -> Tensor:
        """Whether the groups of columns (n, k) have room."""
        return self.room.gather(1, self.groups.of_columns(columns))

    def cheapest(self, price: Tensor) -> Tensor:
        """The least of the prices (n, d), infinite outside the support, that each column can come in for, (n, d)."""
        least = self.groups.laid(price, fill=torch.inf).amin(2)
        least = torch.where(self.room, price.amin(1, keepdim=True), least)
        return least.gather(1, self.groups.group.expand(len(price), -1))

    def partners(self, entering: Tensor, leaving: Tensor) -> Tensor:
        """Which columns (n, m) may leave for each of those that may come in (n, k), (n, k, m)."""
        same = self.groups.of_columns(entering)[:, :, None] == self.groups.of_columns(leaving)[:, None, :]
        return same | self._roomy(entering)[:, :, None]

    def pairs(self, outside: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of each group that may leave, (n, G, a), and those ``outside`` (n, d) that may come in,
        (n, G, b); d where there are no more."""
        return self._chosen(self.support), self._chosen(outside)

    def _chosen(self, mask: Tensor) -> Tensor:
        """The columns of a mask (n, d) in each group, (n, G, most of them), d where there are no more."""
        inside = self.groups.laid(mask, fill=False)
        slots = torch.where(inside, self.groups.slots, self.groups.columns)
        width = int(inside.sum(2).max()) if inside.numel() else 0
        return slots.sort(2).values[:, :, :width]


@dataclass(frozen=True, eq=False)
class Gains:
    """What is known of rows for their exchanges: ``w``, ``g``, ``s`` and the ``diagonal`` of P, (n, d) each."""

    w: Tensor
    g: Tensor
    s: Tensor
    diagonal: Tensor

    def best(self, leaving: Tensor, entering: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pair of each row among those of columns (n, G, a) and (n, G, b) with u (n, G, a, b): what it gains,
        and the columns that leave and come in, (n,) each. Columns of number d are none."""
        n, d = self.w.shape
        w, diagonal = (self._at(one, leaving)[:, :, :, None] for one in (self.w, self.diagonal))
        g, s = (self._at(one, entering)[:, :, None, :] for one in (self.g, self.s))
        gain = g.square() / s - (w - u * (g / s)).square() / (diagonal + u.square() / s)
        gain = torch.where((leaving < d)[:, :, :, None] & (entering < d)[:, :, None, :], gain, -torch.inf)
        won, place = gain.flatten(1).max(1)
        a, b = leaving.shape[2], entering.shape[2]
        group, pair = place // (a * b), place % (a * b)
        at = torch.arange(n)
        return won, leaving[at, group, pair // b], entering[at, group, pair % b]

    def _at(self, full: Tensor, columns: Tensor) -> Tensor:
        """Numbers of columns, 1 where there are none."""
        padded = torch.cat([full, full.new_ones(len(full), 1)], 1)
        return padded.gather(1, columns.flatten(1)).view(columns.shape)
