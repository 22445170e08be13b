"""A solution is what ``solve_rows`` returns: coefficients, each row with its certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.rows.outcome import RowStatus


@dataclass(frozen=True, eq=False)
class Solution:
    """It has the coefficients of r rows, each with its certificate.

    Attributes
    ----------
    coefficients : csr_array of shape (r, d), float64
        Exact zeros, no column off its row's support, ‖w_J‖₁ ≤ κ in whatever order it is summed.
    intercepts : array of shape (r,)
        Zero where no intercept was asked for.
    objective : array of shape (r,)
        λ‖z − Φw‖² + Σ h(w) of the row problem.
    dual_gap : array of shape (r,)
        The objective is within ``dual_gap`` of the least possible one: a proof, up to the rounding of the few float64
        sums that make it (about 1e-16·λ‖z‖²; with an intercept, of the centred data). For a column without any
        penalty the dual asks for Φⱼᵀθ = 0, which is taken up to ‖Φⱼ‖(1e-12·‖z − Φw‖ + 1e-15·‖z‖); and so is a strength
        that is smaller than this.
    relative_gap : array of shape (r,)
        gap / objective, what the tolerance is compared with. Where the gap is so small that it may be rounding, some
        1e-16·λ(‖z‖ + ‖w‖₂)‖w‖₁ in units of the columns' norms, it is gap / max(objective, 1e-6·λ‖z‖²).
    cardinality_gap : array of shape (r,)
        For ``Perspective``: with the true price γ‖w‖₀ + α‖w‖² in place of its relaxation, no choice of non-zeros
        whatever has an objective smaller by more than this. NaN for other penalties.
    multiplier : array of shape (r,)
        μ ≥ 0 of the ball.
    residual : array of shape (r,)
        ‖z − Φw‖. Where exact matching is infeasible it is the least possible one.
    status : array of shape (r,) of RowStatus values
    seconds : array of shape (r,)
        Time spent on the row, its share of the common work included.
    tol : float
        The relative gap that was asked for.
    timings : dict
        Processor seconds of all threads by stage: ``gram`` (preparing the design), ``iterations`` (ADMM), ``factor``
        and ``polish`` (the active set, its factorisations apart), ``certificate``.
    earlier : tuple of Solution
        The rounds before the last one.
    """

    coefficients: csr_array
    intercepts: npt.NDArray[np.float64]
    objective: npt.NDArray[np.float64]
    dual_gap: npt.NDArray[np.float64]
    relative_gap: npt.NDArray[np.float64]
    cardinality_gap: npt.NDArray[np.float64]
    multiplier: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float64]
    status: npt.NDArray[np.int8]
    seconds: npt.NDArray[np.float64]
    tol: float
    timings: dict[str, float]
    earlier: tuple[Solution, ...] = ()

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """This says which rows reached the tolerance, shape (r,)."""
        return np.equal(self.status, RowStatus.CONVERGED)

    @property
    def nnz(self) -> npt.NDArray[np.intp]:
        """These are the numbers of non-zeros of the rows, shape (r,)."""
        counts: npt.NDArray[np.intp] = np.diff(self.coefficients.indptr)
        return counts

    def advice(self, row: int) -> str:
        """Say what to do about a row, for people."""
        return RowStatus(int(self.status[row])).advice

    def __repr__(self) -> str:
        rows, columns = self.coefficients.shape
        worst = float(self.dual_gap.max(initial=0.0))
        return (
            f"Solution({rows} rows x {columns} columns, {self.coefficients.nnz} non-zeros, "
            f"{int(self.converged.sum())} converged, largest dual gap {worst:.1e})"
        )
