r"""Which rows of a fit are wrong, and which are only not proved to the last digit.

A row is *converged* where its duality gap is at most tol of its objective (and of a floor, see ``Solution``). Where a
layer matches its targets almost exactly, and float64 sums leave no more digits, the gap of a row may be more than that
of a loss of nearly zero, and yet nothing beside what the row is for. So a row that is not converged is marked, but it
is *wrong* only where its gap exceeds tol of λ‖z‖², the targets' energy, in the mean over its layer's rows: by more than
that no other weights could match the layer any better.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simplicit.errors import ConvergenceError
from simplicit.rows import RowStatus, Solution
from simplicit.rows.batch import Mask
from simplicit.training.problem import Rows


def wrong_rows(solution: Solution, rows: Rows) -> Mask:
    """Which rows of a solution are wrong, (r,)."""
    unproved = ~solution.converged
    if not unproved.any():
        return unproved
    energy = float(np.mean(rows.data.sums.energy))
    negligible = solution.dual_gap <= solution.tol * rows.weight * energy
    return np.asarray(unproved & ~(negligible & np.not_equal(solution.status, RowStatus.INFEASIBLE)))


def raise_if_wrong(solution: Solution, rows: Rows, layer: str) -> None:
    """Raise ConvergenceError if a row, of the solution or of a round before it, is wrong."""
    for number, one in enumerate((*solution.earlier, solution)):
        failed = np.flatnonzero(wrong_rows(one, rows))
        if not len(failed):
            continue
        worst = int(failed[np.argmax(one.relative_gap[failed])])
        raise ConvergenceError(
            f"layer {layer!r}: {len(failed)} of {len(one.status)} rows did not reach tol={one.tol:g}, neither of their "
            f"objective nor of the layer's targets; the first is row {failed[0]}; the worst is row {worst} with a "
            f"relative gap of {one.relative_gap[worst]:.1e} at an objective of {one.objective[worst]:.2e}: "
            f"{one.advice(worst)}",
            solution=replace(one, earlier=solution.earlier[:number]),
        )
