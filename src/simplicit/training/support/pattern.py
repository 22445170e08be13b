r"""N:M patterns: of every M consecutive inputs of a row at most N have a weight.

The columns of a row lie in lines, and a line in groups of M, from its first column on; what is left at its end is a
shorter group of s columns, of which ⌈N·s/M⌉ may have weights. Groups do not overlap, so that all that has to be found
under a pattern is found group by group, exactly:

    argmax over S in the pattern   Σ_{j∈S} scoreⱼ   =  the N largest scores of each group,

and with no more than ``count`` columns in all the ``count`` largest of these. Thresholding projects so
(:mod:`~simplicit.training.support.thresholding`). Elimination lets those columns go of which a group has more than N,
and freezes it then (:mod:`~simplicit.training.support.elimination`); an exchange takes the place of a column of the
same group, or comes into one that has fewer than N (:mod:`~simplicit.training.support.exchange`).

Where a row has the columns (channel, position) of a convolution, a line is the channels at one position of the kernel:
so NVIDIA's library of automatic sparsity has it (``apex.contrib.sparsity``, ``create_mask``), and sparse matrix units,
which multiply all channels at a position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import refused
from simplicit.rows.batch import Array, Index, Mask


@dataclass(frozen=True)
class Pattern:
    """At most ``kept`` of every ``of`` consecutive inputs, ``"2:4"`` as text."""

    kept: int
    of: int

    @classmethod
    def parse(cls, argument: str, value: Any, beside: str = "") -> Self:
        """From a text such as ``"2:4"``; InputError is raised for anything else, naming the argument and what it may
        be ``beside``."""
        if isinstance(value, cls):
            return value
        found = re.fullmatch(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise refused(argument, f"expected {beside}N:M with 0 < N < M, such as '2:4' or '1:4', got {value!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @property
    def sparsity(self) -> float:
        """The share of zeros, in per cent, of rows of whole groups."""
        return 100 * (1 - self.kept / self.of)

    def most(self, size: int) -> int:
        """How many weights a group of that size may have."""
        return -(-self.kept * min(size, self.of) // self.of)


@dataclass(frozen=True)
class PatternFigures:
    """The groups of a layer's weights: a proof that they are in their pattern where ``violations`` is 0.

    Attributes
    ----------
    name, pattern : str
        The layer, and its pattern, such as ``"2:4"``.
    groups, violations : int
        Groups of consecutive inputs of all rows, and those of them with more weights than they may have.
    """

    name: str
    pattern: str
    groups: int
    violations: int


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of r rows with d ``columns``: every column is in one of each row.

    ``slots`` (q, G, M) are the columns of a group, d where it has fewer, and ``most`` (q, G) how many of them may have
    weights; q is 1 where all rows have the same.
    """

    slots: Tensor
    most: Tensor
    columns: int

    @classmethod
    def along(cls, pattern: Pattern, channels: int, positions: int) -> Self:
        """Of rows with the columns (channels, positions), as they lie in memory; lines are over the channels."""
        starts = np.arange(0, channels, pattern.of)
        channel = starts[:, None, None] + np.arange(pattern.of)
        slots = channel * positions + np.arange(positions)[:, None]
        d = channels * positions
        most = [pattern.most(channels - int(start)) for start in starts]
        return cls(
            torch.from_numpy(np.where(channel < channels, slots, d).reshape(1, -1, pattern.of)),
            torch.tensor(most).repeat_interleave(positions)[None],
            d,
        )

    @classmethod
    def of_lines(cls, pattern: Pattern, lines: Index, places: Index, lengths: Index) -> Self:
        """Of columns at ``places`` of ``lines``, numbers (r, d) both, of ``lengths`` (r, d).

        Columns of lines that are shorter than a group are free, and so are those whose line is below zero.
        """
        (rows, d), found = lines.shape, list[tuple[list[list[int]], list[int]]]()
        for line, place, length in zip(lines, places, lengths, strict=True):
            members: dict[tuple[int, int], list[int]] = {}
            most: list[int] = []
            for j in range(d):
                whole = line[j] >= 0 and length[j] >= pattern.of
                key = (int(line[j]), int(place[j]) // pattern.of) if whole else (-1, j)
                if key not in members:
                    most.append(pattern.most(int(length[j]) - key[1] * pattern.of) if whole else 1)
                members.setdefault(key, []).append(j)
            found.append((list(members.values()), most))
        count = max((len(most) for _, most in found), default=0)
        width = max((len(one) for members, _ in found for one in members), default=1)
        slots, limits = np.full((rows, count, width), d), np.zeros((rows, count), dtype=np.int64)
        for row, (all_members, most) in enumerate(found):
            limits[row, : len(most)] = most
            for group, one in enumerate(all_members):
                slots[row, group, : len(one)] = one
        return cls(torch.from_numpy(slots), torch.from_numpy(limits), d)

    def on(self, columns: Index) -> Groups:
        """The same of some columns (k,), by their places among these."""
        places = torch.full((self.columns + 1,), len(columns))
        places[torch.from_numpy(columns)] = torch.arange(len(columns))
        return replace(self, slots=places[self.slots], columns=len(columns))

    def of_rows(self, rows: Any) -> Groups:
        """Those of some rows."""
        return self if len(self.slots) == 1 else replace(self, slots=self.slots[rows], most=self.most[rows])

    def row(self, row: int) -> bytes:
        """What rows with the same groups have in common."""
        return b"" if len(self.slots) == 1 else self.slots[row].numpy().tobytes() + self.most[row].numpy().tobytes()

    @cached_property
    def group(self) -> Tensor:
        """The group of each column, (q, d)."""
        numbers = torch.arange(self.slots.shape[1])[:, None].expand(self.slots.shape[1:]).reshape(1, -1)
        found = torch.zeros(len(self.slots), self.columns + 1, dtype=torch.int64)
        return found.scatter_(1, self.slots.flatten(1), numbers.expand(len(self.slots), -1))[:, : self.columns]

    def of_columns(self, names: Tensor) -> Tensor:
        """The groups of some columns of each row, (n, k)."""
        return self.group.expand(len(names), -1).gather(1, names)

    def laid(self, values: Tensor, fill: float) -> Tensor:
        """Numbers of the columns (n, d) as their groups have them, (n, G, M), and ``fill`` where there are none."""
        n = len(values)
        padded = torch.cat([values, values.new_full((n, 1), fill)], 1)
        return padded.gather(1, self.slots.expand(n, -1, -1).flatten(1)).view(n, *self.slots.shape[1:])

    def back(self, laid: Tensor) -> Tensor:
        """The columns' numbers (n, d) from the groups', (n, G, M)."""
        n = len(laid)
        out = laid.new_zeros(n, self.columns + 1)
        return out.scatter_(1, self.slots.expand(n, -1, -1).flatten(1), laid.flatten(1))[:, : self.columns]

    def counts(self, mask: Tensor) -> Tensor:
        """How many columns of a mask (n, d) each group has, (n, G)."""
        return self.laid(mask, fill=False).sum(2)

    def largest(self, scores: Tensor, limits: Tensor | None = None) -> Tensor:
        """Which columns have the largest scores (n, d) of their groups, as many as ``limits`` (n, G) or the pattern
        says, (n, d); of equal ones the first."""
        inside = self.laid(scores, fill=-torch.inf)
        ranks = torch.zeros_like(inside, dtype=torch.int32)
        place = torch.arange(inside.shape[2])
        for j in range(inside.shape[2]):
            one = inside[:, :, j, None]
            ranks += (one > inside) | ((one == inside) & (place > j))
        return self.back(ranks < (self.most if limits is None else limits)[:, :, None])

    def capacity(self, allowed: Mask) -> Index:
        """How many weights each row can have where columns are ``allowed`` (r, d), (r,)."""
        counts = self.counts(torch.from_numpy(allowed))
        return np.asarray(torch.minimum(counts, self.most).sum(1).numpy())

    def figures(self, name: str, pattern: Pattern, weights: Array) -> PatternFigures:
        """The groups of the weights (r, d) of a layer of that name; those that may have all are not counted."""
        bound = ((self.slots < self.columns).sum(2) > self.most).expand(len(weights), -1)
        over = self.counts(torch.from_numpy(weights != 0)) > self.most
        return PatternFigures(name, str(pattern), int(bound.sum()), int(over.sum()))


class Quota:
    """How many columns of each group of n rows may go still, until all have no more weights than they may."""

    def __init__(self, groups: Groups, rows: int) -> None:
        self.groups = groups
        sizes = (groups.slots < groups.columns).sum(2)
        self.left = (sizes - groups.most).clamp_(min=0).expand(rows, -1).clone()
        #: Columns of every row, which are as many in all of them.
        self.count = int(self.left[0].sum()) if rows else 0

    def priced(self, names: Tensor, price: Tensor) -> Tensor:
        """The prices (n, l) of the columns of those ``names``, infinite where they may not go together."""
        full = price.new_full((len(price), self.groups.columns), torch.inf).scatter_(1, names, price)
        free = self.groups.largest(-full, self.left).gather(1, names)
        return torch.where(free, price, torch.inf)

    def take(self, names: Tensor) -> None:
        """Let columns (n, b) go."""
        self.left.scatter_add_(1, self.groups.of_columns(names), -torch.ones_like(names))
        self.count -= names.shape[1]
