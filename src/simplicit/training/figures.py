"""Figures of what was trained: one of each kind for a row, and those of a layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from simplicit.rows import RowStatus, Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.provider import Student


@dataclass(frozen=True, eq=False)
class RowFigures:
    """One entry for each row that was solved: arrays of shape (rows,).

    The rows are those of M = [[A, B], [C, D]], states first, or, where rows are tied over positions, the output
    channels of all layers in the order of evaluation.

    Attributes
    ----------
    group : array of str
        The layer: a group of states or ``"output"``, or the path of a module.
    objective, dual_gap, relative_gap : array
        Of the row problem; ``relative_gap`` is what the tolerance is compared with.
    status : array of int8
        Values of ``RowStatus``.
    nnz : array of int
    multiplier : array
        μ of the ball, > 0 where it binds.
    cardinality_gap : array
        How far the choice of non-zeros is at most from the best one, in the units of ``objective``: from the best of
        the same size in the row, where supports were selected; at the price of the penalty, for ``Perspective``; NaN
        otherwise.
    seconds : array
        All rounds together.
    """

    group: npt.NDArray[np.str_]
    objective: Array
    dual_gap: Array
    relative_gap: Array
    status: npt.NDArray[np.int8]
    nnz: Index
    multiplier: Array
    cardinality_gap: Array
    seconds: Array

    @property
    def converged(self) -> Mask:
        """Which rows are certified to the tolerance."""
        return np.equal(self.status, RowStatus.CONVERGED)

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        worst = float(self.relative_gap.max(initial=0.0))
        layers = len(dict.fromkeys(self.group))
        found = (
            f"{int(self.converged.sum())} converged, {int(self.nnz.sum())} non-zeros, largest relative gap {worst:.1e}"
        )
        return f"RowFigures({len(self)} rows of {layers} layers, {found})"

    @classmethod
    def of(cls, solutions: Iterable[Solution], student: Student) -> RowFigures:
        """The figures of the solutions of all layers, in the order of a student's rows."""
        solutions = list(solutions)
        taken = [item.name for item in fields(cls) if item.name not in ("group", "seconds")]
        figures = {name: np.concatenate([getattr(one, name) for one in solutions])[student.order] for name in taken}
        rounds = [sum((earlier.seconds for earlier in last.earlier), last.seconds) for last in solutions]
        return cls(group=student.labels, seconds=np.concatenate(rounds)[student.order], **figures)


@dataclass(frozen=True)
class LayerFigures:
    """What came of a layer.

    Attributes
    ----------
    name : str
    rows, weights, non_zeros : int
        Its rows, the baseline's weights in it, and the new ones that are not zero.
    error : float
        Relative squared error of its rows, Σ‖ẑ − z‖²/Σ‖z‖² over the training samples, and positions where rows are
        tied: ẑ is what the new network computes there, z what the baseline does, both behind the batch norm that
        follows. It is 0 where all z are.
    support_bound : float or None
        The share of the rows' squared error that the best supports of their sizes leave at least: 1 is a proof that no
        other support of as many columns, in the pattern, is better in any row, given the states and the ridge. None
        where supports were not selected. See :mod:`simplicit.training.support.bounds`.
    pattern : str or None
        The pattern that every row of it is in, such as ``"2:4"``.
    modules : tuple of str
        Where rows are those of states, and ``name`` is a group of them: the modules whose weights make it.
    """

    name: str
    rows: int
    weights: int
    non_zeros: int
    error: float
    support_bound: float | None
    pattern: str | None = None
    modules: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name, behind those of the modules where these are others: ``"0 (1)"``."""
        return f"{'+'.join(self.modules)} ({self.name})" if self.modules else self.name
