"""Blocks that come in, in whatever order, put back together as solutions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.sparse import csr_array

from simplicit.rows import Solution
from simplicit.rows.batch import Index
from simplicit.rows.outcome import Figures, Stage
from simplicit.solve.arrays import BlockResult, MemberResult


@dataclass(frozen=True)
class SolveFacts:
    """What must be known of a solve to put its blocks together; its section of a journal says so."""

    rows: int
    columns: int
    blocks: int
    members: int  # of the path; 1 where there is none
    rounds: int  # more than 1 for a single member alone
    tol: float  # the relative gap that was asked for

    @property
    def solves(self) -> int:
        """How often each row is solved."""
        return max(self.members, self.rounds)


class Collected:
    """The blocks of a solve that have come in."""

    def __init__(self, facts: SolveFacts) -> None:
        self.rounds = facts.rounds
        self._members = [_Member(facts) for _ in range(facts.solves)]

    def put(self, result: BlockResult) -> None:
        """Add a block."""
        for member, found in zip(self._members, result.members, strict=True):
            member.put(result.rows, found)

    def add_seconds(self, stage: Stage, seconds: float) -> None:
        """Add to the table of where the time went, of the first member."""
        self._members[0].timings[stage] += seconds

    def solutions(self) -> list[Solution]:
        """Those of the members; or that of the last round, with the earlier ones in it, if there are rounds."""
        found = [member.solution() for member in self._members]
        return found if self.rounds == 1 else [replace(found[-1], earlier=tuple(found[:-1]))]


class _Member:
    """The rows of one member or round."""

    def __init__(self, facts: SolveFacts) -> None:
        self.shape, self.tol = (facts.rows, facts.columns), facts.tol
        self.parts: list[tuple[Index, csr_array]] = []
        self.figures = Figures(*(np.zeros(facts.rows) for _ in fields(Figures)))
        self.intercepts = np.zeros(facts.rows)
        self.status = np.zeros(facts.rows, dtype=np.int8)
        self.timings = np.zeros(len(Stage))

    def put(self, rows: Index, found: MemberResult) -> None:
        """Add the rows of a block."""
        indptr = np.concatenate([[0], np.cumsum(found.counts)])
        entries = found.coefficients
        self.parts.append((rows, csr_array((entries.values, entries.columns, indptr), (len(rows), self.shape[1]))))
        self.figures.put(rows, found.figures)
        self.intercepts[rows], self.status[rows] = found.intercepts, found.status
        self.timings += found.timings

    def solution(self) -> Solution:
        """All rows, in the order of the targets."""
        order = np.argsort(np.concatenate([rows for rows, _ in self.parts]), kind="stable")
        rows = [part for _, part in self.parts]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.indptr) for part in rows]))])
        data, indices = (np.concatenate([getattr(part, name) for part in rows]) for name in ("data", "indices"))
        coefficients = csr_array(csr_array((data, indices, indptr), self.shape)[order])
        coefficients.sort_indices()
        return Solution(
            coefficients=coefficients,
            intercepts=self.intercepts,
            status=self.status,
            tol=self.tol,
            timings={stage.name.lower(): float(self.timings[stage]) for stage in Stage},
            **vars(self.figures),
        )
