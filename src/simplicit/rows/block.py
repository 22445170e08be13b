"""One block of rows from start to certificate: ADMM on all, then rounds of polish on those not yet converged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.admm import admm
from simplicit.rows.ball import shrink_into_ball
from simplicit.rows.penalties import Penalty
from simplicit.rows.polish import RowQuadratic, minimise_on_pattern
from simplicit.rows.problem import Certificate, RowProblem

__all__ = ["BlockSolution", "RowStatus", "solve_block"]

Array = npt.NDArray[np.float64]


class RowStatus(IntEnum):
    """How a row ended."""

    CONVERGED = 0
    ACCURACY_LIMIT = 1
    ROUND_LIMIT = 2

    @property
    def advice(self) -> str:
        """What to do about it, for people."""
        return {
            RowStatus.CONVERGED: "nothing to do: the duality gap is within the tolerance",
            RowStatus.ACCURACY_LIMIT: "float64 can bring the gap no lower here: raise tol or the penalty, or rescale "
            "the features",
            RowStatus.ROUND_LIMIT: "the active set was still changing after the last round: raise tol or the penalty",
        }[self]


@dataclass(frozen=True)
class BlockSolution:
    """Coefficients of a block of rows and what is known of each; arrays (r,) but for ``coefficients`` (r, k)."""

    coefficients: Array
    objective: Array
    dual_gap: Array
    multiplier: Array
    status: npt.NDArray[np.int8]
    seconds: Array


def solve_block(
    problem: RowProblem[Penalty], *, tol: float, start: Tensor | None = None, max_rounds: int = 100
) -> BlockSolution:
    """Solve a block of row problems to relative duality gap ``tol``.

    Parameters
    ----------
    problem : RowProblem
    tol : float
        A row is converged when gap ≤ tol·max(primal, 1e-6·λ‖z‖²).
    start : (r, k) tensor, optional
        Coefficients to begin from.
    max_rounds : int
        At most so many rounds in which columns enter.
    """
    begun = time.perf_counter()
    w = admm(problem, start).numpy()
    state = _Rows(problem, tol, w)
    state.seconds += (time.perf_counter() - begun) / len(w)
    state.run(max_rounds)
    return BlockSolution(
        coefficients=state.w,
        objective=state.certificate.objective.numpy(),
        dual_gap=state.certificate.dual_gap.numpy(),
        multiplier=np.maximum(state.multiplier, 0.0) * 2 * problem.weight[:, 0].numpy(),
        status=state.status,
        seconds=state.seconds,
    )


class _Rows:
    """The rounds of a block: certify all rows at once, then improve, one by one, those that are not converged."""

    #: Rounds without descent after which a row is given up: float64 has no more to give.
    PATIENCE = 10

    def __init__(self, problem: RowProblem[Penalty], tol: float, w: Array) -> None:
        self.problem, self.tol, self.w = problem, tol, w
        self.kink = problem.kink.numpy()
        self.in_ball = np.zeros(w.shape[1])
        self.in_ball[problem.ball_columns.numpy()] = 1.0
        self.radius = problem.radius[:, 0].numpy()
        for row, radius in zip(w, self.radius, strict=True):
            row[self.in_ball > 0] = shrink_into_ball(row[self.in_ball > 0], radius)
        self.multiplier = np.zeros(len(w))
        self.seconds = np.zeros(len(w))
        self.lowest = np.full(len(w), np.inf)
        self.stalled = np.zeros(len(w), dtype=int)
        self.certificate: Certificate = problem.certify(torch.from_numpy(w))

    @property
    def status(self) -> npt.NDArray[np.int8]:
        converged = self.certificate.converged(self.tol).numpy()
        given_up = np.where(self.stalled > self.PATIENCE, RowStatus.ACCURACY_LIMIT, RowStatus.ROUND_LIMIT)
        return np.where(converged, RowStatus.CONVERGED, given_up).astype(np.int8)

    def run(self, max_rounds: int) -> None:
        gram = self.problem.design.gram.numpy()
        open_rows = np.arange(len(self.w))
        for round_number in range(max_rounds):
            gradient = self.certificate.gradient.numpy()
            for i in open_rows.tolist():
                begun = time.perf_counter()
                # ADMM's support is nearly right, its values are not: at first nothing enters.
                entering = self._entering(i, gradient[i]) if round_number else np.zeros(0, dtype=np.intp)
                row = RowQuadratic(gram, self.kink[i], self.in_ball, float(self.radius[i]))
                self.w[i], self.multiplier[i] = minimise_on_pattern(
                    row, self.w[i], gradient[i], entering, float(self.multiplier[i])
                )
                self.seconds[i] += time.perf_counter() - begun
            self.certificate = self.problem.certify(torch.from_numpy(self.w))
            open_rows = np.flatnonzero(self.status == RowStatus.ROUND_LIMIT)
            if not len(open_rows):
                break

    def _entering(self, i: int, gradient: Array) -> npt.NDArray[np.intp]:
        """The columns of row i that violate the optimality conditions; only the worst if all of them did not help."""
        kink = self.kink[i]
        violation = np.abs(gradient) - kink - max(self.multiplier[i], 0.0) * self.in_ball
        entering = np.flatnonzero((self.w[i] == 0) & (violation > 1e-10 * kink))
        objective = float(self.certificate.objective[i])
        descended, self.lowest[i] = objective < self.lowest[i], min(self.lowest[i], objective)
        if descended and len(entering):
            return entering
        self.stalled[i] += 1
        worst = np.argmax(violation[entering] / kink[entering]) if len(entering) else 0
        return entering[worst : worst + 1]
