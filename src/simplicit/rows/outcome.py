"""What comes of a block of rows: coefficients, certificates, statuses, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ["STAGES", "BlockSolution", "RowStatus", "Stopwatch", "add_timings"]

Array = npt.NDArray[np.float64]

#: Where the time goes.
STAGES = ("gram", "iterations", "factor", "polish", "certificate")


class RowStatus(IntEnum):
    """How a row ended."""

    CONVERGED = 0
    ACCURACY_LIMIT = 1
    ROUND_LIMIT = 2
    INFEASIBLE = 3

    @property
    def advice(self) -> str:
        """What to do about it, for people."""
        return {
            RowStatus.CONVERGED: "nothing to do: the duality gap is within the tolerance",
            RowStatus.ACCURACY_LIMIT: "the steps have stopped to help, because columns are dependent up to rounding or "
            "the penalty is tiny, so that float64 cannot prove more: raise tol or the penalty, or drop such columns",
            RowStatus.ROUND_LIMIT: "the active set was still changing after the last round: raise tol or the penalty",
            RowStatus.INFEASIBLE: "no coefficients match the target exactly: take fewer samples, more columns or a "
            "larger ball, or match approximately with simplicit.L1",
        }[self]


@dataclass
class Stopwatch:
    """Processor seconds of this thread by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.thread_time() - begun

    def move(self, seconds: float, source: str, target: str) -> None:
        """Seconds of one stage to another, which was part of it."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds


@dataclass(frozen=True)
class BlockSolution:
    """Coefficients of a block of rows and what is known of each; arrays (r,) but for ``coefficients`` (r, k).

    ``residual`` is ‖z − Φw‖, ``timings`` processor seconds by stage. All in the units of the solver.
    ``cardinality_gap`` is NaN but for penalties that relax a cardinality.
    """

    coefficients: Array
    objective: Array
    dual_gap: Array
    relative_gap: Array
    cardinality_gap: Array
    multiplier: Array
    residual: Array
    status: npt.NDArray[np.int8]
    seconds: Array
    timings: dict[str, float]

    def improved(self, rows: npt.NDArray[np.intp], other: BlockSolution) -> BlockSolution:
        """This block with the rows of ``other`` in the places ``rows``, where these have smaller gaps."""
        better = other.dual_gap < self.dual_gap[rows]
        arrays = {f.name: getattr(self, f.name).copy() for f in fields(self)[:-1]}
        for name, values in arrays.items():
            values[rows[better]] = getattr(other, name)[better]
        arrays["seconds"][rows] = self.seconds[rows] + other.seconds
        return BlockSolution(**arrays, timings=add_timings([self.timings, other.timings]))

    @classmethod
    def joined(cls, parts: Sequence[BlockSolution]) -> BlockSolution:
        """Several groups of rows as one block."""
        arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)[:-1]}
        return cls(**arrays, timings=add_timings(part.timings for part in parts))


def add_timings(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sum of tables of seconds, stage by stage."""
    total = dict.fromkeys(STAGES, 0.0)
    for table in timings:
        for stage, seconds in table.items():
            total[stage] += seconds
    return total
