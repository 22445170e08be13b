r"""Which rows of a fit are wrong, and which are only not proved to the last digit.

A row is *converged* where its duality gap is at most tol of its objective (and of a floor, see ``Solution``). Where a
layer matches its targets almost exactly, and float64 sums leave no more digits, the gap of a row may be more than that
of a loss of nearly zero, and yet nothing beside what the row is for. So a row that is not converged is marked, but it
is *wrong* only where its gap exceeds tol of λ‖z‖², the targets' energy, in the mean over its layer's rows: by more than
that no other weights could match the layer any better.

The dual of least squares without a penalty asks of a residual that it is orthogonal to every column on the support, and
a residual of nearly zero is not, to the digits that are left of it. But their gap is known in closed form: with
q = c − Hw on the support S, the loss λ(wᵀHw − 2cᵀw + energy) is above its least value by

    λ qᵀ(H_SS)⁻¹q

exactly, and by no more where there is a ball. Rows that the dual does not prove are certified so. It is at most λ‖q‖²/δ
with the ridge δ, which proves rows on few samples (:mod:`~simplicit.training.factor`) without any factorisation of
their columns.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_array

from simplicit.errors import ConvergenceError
from simplicit.rows import RowStatus, Solution
from simplicit.rows.batch import Array, Mask
from simplicit.rows.certificate import FLOOR
from simplicit.rows.outcome import Stage
from simplicit.training.factor import REST
from simplicit.training.problem import LeastSquares, Rows


def proved(solution: Solution, problem: LeastSquares, support: Mask, weight: float) -> Solution:
    """A solution of least squares on a support, with the rows that are not converged certified in closed form.

    A row is converged where this gap, which no dual point rounds, is at most tol·max(objective, 1e-6·λ·energy).
    """
    gaps, status, relative = solution.dual_gap.copy(), solution.status.copy(), solution.relative_gap.copy()
    scales = np.maximum(solution.objective, FLOOR * weight * problem.energy)
    for row in np.flatnonzero(~solution.converged):
        gap = weight * _excess(problem, int(row), solution.coefficients[[row]].toarray()[0], support[row])
        if gap < gaps[row] and scales[row] > 0:
            gaps[row], relative[row] = gap, gap / scales[row]
            if relative[row] <= solution.tol:
                status[row] = RowStatus.CONVERGED
    return replace(solution, dual_gap=gaps, relative_gap=relative, status=status)


def certified(problem: LeastSquares, coefficients: Array, weight: float, tol: float) -> Solution:
    """Coefficients (r, d) of least squares on their supports, without a ball, as a solution with its proof."""
    begun, w, low_rank = time.thread_time(), coefficients, problem.low_rank
    q = np.where(w != 0, problem.cross - (w @ problem.gram if low_rank is None else low_rank.product(w)), 0.0)
    if low_rank is None:
        gap = weight * np.array([_excess(problem, row, w[row], w[row] != 0) for row in range(len(w))])
    else:
        # What the factor leaves out of H has no eigenvalue above REST·δ.
        delta = low_rank.ridge
        gap = weight * np.square(np.linalg.norm(q, axis=1) + REST * delta * np.linalg.norm(w, axis=1)) / delta
    fit = np.maximum(problem.energy - np.einsum("ij,ij->i", problem.cross + q, w), 0.0)
    scale = weight * np.maximum(fit, FLOOR * problem.energy)
    relative = np.divide(gap, scale, out=np.where(gap > 0, np.inf, 0.0), where=scale > 0)
    seconds, nothing = time.thread_time() - begun, np.zeros(len(w))
    return Solution(
        coefficients=csr_array(w),
        intercepts=nothing,
        objective=weight * fit,
        dual_gap=gap,
        relative_gap=relative,
        cardinality_gap=np.full(len(w), np.nan),
        multiplier=nothing,
        residual=np.sqrt(fit),
        status=np.where(relative <= tol, RowStatus.CONVERGED, RowStatus.ACCURACY_LIMIT).astype(np.int8),
        seconds=np.full(len(w), seconds / max(1, len(w))),
        tol=tol,
        timings={stage.name.lower(): seconds if stage is Stage.CERTIFICATE else 0.0 for stage in Stage},
    )


def _excess(problem: LeastSquares, row: int, w: Array, support: Mask) -> float:
    """qᵀ(H_SS)⁻¹q of a row; infinite where H_SS is not positive definite in float64."""
    H = problem.gram[np.ix_(support, support)]
    q = problem.cross[row, support] - H @ w[support]
    try:
        return float(q @ cho_solve(cho_factor(H), q)) if len(q) else 0.0
    except LinAlgError:
        return float("inf")


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
