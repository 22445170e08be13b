"""A block of rows comes out as coefficients with their certificates and statuses, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.batch import SHARED, Array, Batch, Index
from simplicit.rows.certificate import Certificate
from simplicit.rows.problem import RowProblem


class Stage(IntEnum):
    """The time goes to these, in the order of ``timings``."""

    GRAM = 0
    ITERATIONS = 1
    FACTOR = 2
    POLISH = 3
    CERTIFICATE = 4


class RowStatus(IntEnum):
    """A row ends in one of these ways."""

    CONVERGED = 0
    ACCURACY_LIMIT = 1
    ITERATION_LIMIT = 2
    INFEASIBLE = 3

    @property
    def advice(self) -> str:
        """This says what to do about it, for people."""
        return {
            RowStatus.CONVERGED: "nothing to do: the duality gap is within the tolerance",
            RowStatus.ACCURACY_LIMIT: "the steps have stopped to help, because columns are dependent up to rounding or "
            "the penalty is tiny, so that float64 cannot prove more: raise tol or the penalty, or drop such columns",
            RowStatus.ITERATION_LIMIT: "the active set was still changing after the last iteration: raise tol or the "
            "penalty",
            RowStatus.INFEASIBLE: "no coefficients match the target exactly: take fewer samples, more columns or a "
            "larger ball, or match approximately with simplicit.L1",
        }[self]


@dataclass
class Stopwatch:
    """It counts processor seconds of this thread by stage."""

    seconds: Array = field(default_factory=lambda: np.zeros(len(Stage)))

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Add the processor time of the block to a stage."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.thread_time() - begun

    def move(self, seconds: float, source: Stage, target: Stage) -> None:
        """Take seconds from one stage to another, which was part of it."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds


@dataclass(frozen=True, eq=False)
class Figures(Batch):
    """This is known of each row, (r,) each; :class:`simplicit.Solution` says what it is."""

    objective: Array
    dual_gap: Array
    relative_gap: Array
    cardinality_gap: Array
    multiplier: Array
    residual: Array
    seconds: Array


@dataclass(frozen=True, eq=False)
class BlockSolution(Figures):
    """It has the coefficients of a block of rows and what is known of each, in the units of the problem."""

    coefficients: Array  # (r, k)
    status: npt.NDArray[np.int8]  # values of RowStatus, (r,)
    timings: Array = field(metadata=SHARED)  # processor seconds of the block by stage

    @classmethod
    def certified(
        cls,
        problem: RowProblem,
        w: Tensor,
        certificate: Certificate,
        status: npt.NDArray[np.int8],
        seconds: Array,
        timings: Array,
    ) -> BlockSolution:
        """Make it from coefficients (r, k) and what their certificate proves; nothing is copied."""
        fit, _ = problem.residuals(w)
        excess = problem.penalty.cardinality_excess(w) if problem.penalty.cardinality else torch.nan
        return cls(
            coefficients=w.cpu().numpy(),
            objective=certificate.objective.cpu().numpy(),
            dual_gap=certificate.dual_gap.cpu().numpy(),
            relative_gap=certificate.relative_gap.cpu().numpy(),
            cardinality_gap=(certificate.dual_gap + excess).cpu().numpy(),
            multiplier=certificate.multiplier.cpu().numpy(),
            residual=fit.sqrt().cpu().numpy(),
            status=status,
            seconds=seconds,
            timings=timings,
        )

    @property
    def figures(self) -> Figures:
        """These are the figures of the rows without the rest."""
        return Figures(**{item.name: getattr(self, item.name) for item in fields(Figures)})

    def improved(self, rows: Index, other: BlockSolution) -> BlockSolution:
        """Return this block with the rows of ``other`` in the places ``rows``, where these have smaller gaps."""
        better = other.dual_gap < self.dual_gap[rows]
        best = self.select(np.arange(len(self.dual_gap)))
        best.put(rows[better], other.select(better))
        best.seconds[rows] = self.seconds[rows] + other.seconds
        return replace(best, timings=self.timings + other.timings)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return several groups of rows as one block, whose timings are their sum."""
        return replace(super().joined(parts), timings=np.sum([part.timings for part in parts], axis=0))
