"""Blocks that come in, in whatever order, put back together as solutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.executors import Result
from simplicit.rows import Solution
from simplicit.rows.outcome import STAGES
from simplicit.solve.block import FIGURES

__all__ = ["Collected", "worst_gap"]

Index = npt.NDArray[np.intp]


def worst_gap(result: Result, members: int) -> float:
    """The largest relative gap of a block, of all its members and rounds."""
    return max(float(result[f"{number}/relative_gap"].max(initial=0.0)) for number in range(members))


class Collected:
    """The rows of one member or round.

    Parameters
    ----------
    number : int
        Which it is, in the names of the results.
    shape : (int, int)
        Rows and columns.
    tol : float
        The relative gap that was asked for.
    """

    def __init__(self, number: int, shape: tuple[int, int], tol: float) -> None:
        self.number, self.shape, self.tol = number, shape, tol
        self.parts: list[tuple[Index, csr_array]] = []
        self.figures: dict[str, Any] = {name: np.zeros(shape[0]) for name in FIGURES}
        self.intercepts = np.zeros(shape[0])
        self.status = np.zeros(shape[0], dtype=np.int8)
        self.timings = dict.fromkeys(STAGES, 0.0)

    def put(self, result: Result) -> None:
        """Add the result of a block."""
        found = {name: result[f"{self.number}/{name}"] for name in self._names()}
        rows = result["rows"]
        indptr = np.concatenate([[0], np.cumsum(found["counts"])])
        self.parts.append((rows, csr_array((found["values"], found["columns"], indptr), (len(rows), self.shape[1]))))
        for name, values in self.figures.items():
            values[rows] = found[name]
        self.intercepts[rows], self.status[rows] = found["intercepts"], found["status"]
        self.add_seconds(dict(zip(STAGES, found["timings"].tolist(), strict=True)))

    @staticmethod
    def _names() -> Iterator[str]:
        yield from ("counts", "columns", "values", "intercepts", "status", "timings", *FIGURES)

    def add_seconds(self, timings: dict[str, float]) -> None:
        """Add to the table of where the time went."""
        for stage, seconds in timings.items():
            self.timings[stage] += seconds

    def missing(self) -> Index:
        """The rows of which nothing has come in."""
        seen = np.zeros(self.shape[0], dtype=bool)
        for rows, _ in self.parts:
            seen[rows] = True
        return np.flatnonzero(~seen)

    def solution(self) -> Solution:
        """All rows, in the order of the targets."""
        order = np.argsort(np.concatenate([rows for rows, _ in self.parts]), kind="stable")
        rows = [part for _, part in self.parts]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.indptr) for part in rows]))])
        data, indices = (np.concatenate([getattr(part, name) for part in rows]) for name in ("data", "indices"))
        coefficients = csr_array(csr_array((data, indices, indptr), self.shape)[order])
        coefficients.sort_indices()
        return Solution(
            coefficients, self.intercepts, status=self.status, tol=self.tol, timings=self.timings, **self.figures
        )
