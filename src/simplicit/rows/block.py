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
from simplicit.rows.problem import RowProblem

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
            RowStatus.ACCURACY_LIMIT: "the steps have stopped to help, because columns are dependent up to rounding or "
            "the penalty is tiny, so that float64 cannot prove more: raise tol or the penalty, or drop such columns",
            RowStatus.ROUND_LIMIT: "the active set was still changing after the last round: raise tol or the penalty",
        }[self]


@dataclass(frozen=True)
class BlockSolution:
    """Coefficients of a block of rows and what is known of each; arrays (r,) but for ``coefficients`` (r, k)."""

    coefficients: Array
    objective: Array
    dual_gap: Array
    relative_gap: Array
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
        Coefficients to begin from; rows of it that are no better than zero are not used.
    max_rounds : int
        At most so many rounds in which columns enter.
    """
    begun = time.perf_counter()
    w = admm(problem, None if start is None else _useful(problem, start)).numpy()
    # Where no column wants in at zero, zero is the solution, exactly.
    w[(problem.cross.abs() <= problem.kink).all(1).numpy()] = 0.0
    state = _Polishing(problem, tol, _feasible(problem, w))
    state.seconds += (time.perf_counter() - begun) / len(w)
    state.run(max_rounds)
    return BlockSolution(
        coefficients=state.best,
        objective=state.best_certificate.objective.numpy(),
        dual_gap=state.best_certificate.dual_gap.numpy(),
        relative_gap=state.best_certificate.relative_gap.numpy(),
        multiplier=np.maximum(state.multiplier, 0.0) * 2 * problem.weight[:, 0].numpy(),
        status=state.status,
        seconds=state.seconds,
    )


def _feasible(problem: RowProblem[Penalty], w: Array) -> Array:
    """``w`` on the support and in the ball; changed in place."""
    if problem.allowed is not None:
        w *= problem.allowed.numpy()
    inside = problem.ball_columns.numpy()
    if len(inside):
        for row, radius in zip(w, problem.radius[:, 0].tolist(), strict=True):
            row[inside] = shrink_into_ball(row[inside], radius)
    return w


def _useful(problem: RowProblem[Penalty], start: Tensor) -> Tensor:
    """The start, made feasible, with the rows at zero that are no better than zero."""
    start = torch.from_numpy(_feasible(problem, start.numpy().copy()))
    zero = torch.zeros_like(start)
    better = problem.certify(start).objective < problem.certify(zero).objective
    return torch.where(better[:, None], start, zero)


class _Polishing:
    """The rounds of a block: improve the rows that are not converged, one by one, then certify all at once.

    A step that raised the objective by more than rounding, or left the finite numbers, is taken back, so that the
    descent which the polish promises in exact arithmetic holds in float64 too. ``best`` has for every row the
    coefficients with the smallest gap so far.
    """

    #: Rounds without descent after which a row is given up: float64 has no more to give.
    PATIENCE = 10
    #: Relative rise of an objective that counts as rounding.
    ROUNDING = 1e-9

    def __init__(self, problem: RowProblem[Penalty], tol: float, w: Array) -> None:
        self.problem, self.tol, self.w = problem, tol, w
        self.kink = problem.kink.numpy()
        self.in_ball = np.zeros(w.shape[1])
        self.in_ball[problem.ball_columns.numpy()] = 1.0
        self.multiplier = np.zeros(len(w))
        self.seconds = np.zeros(len(w))
        self.lowest = np.full(len(w), np.inf)
        self.stalled = np.zeros(len(w), dtype=int)
        self.certificate = problem.certify(torch.from_numpy(w))
        self.before = w.copy()  # the coefficients that ``certificate`` is of
        self.best, self.best_certificate = w.copy(), self.certificate

    @property
    def status(self) -> npt.NDArray[np.int8]:
        converged = self.best_certificate.converged(self.tol).numpy()
        given_up = np.where(self.stalled > self.PATIENCE, RowStatus.ACCURACY_LIMIT, RowStatus.ROUND_LIMIT)
        return np.where(converged, RowStatus.CONVERGED, given_up).astype(np.int8)

    def run(self, max_rounds: int) -> None:
        gram, radius = self.problem.design.gram.numpy(), self.problem.radius[:, 0].tolist()
        open_rows = np.arange(len(self.w))
        for round_number in range(max_rounds):
            gradient = self.certificate.gradient.numpy()
            for i in open_rows.tolist():
                begun = time.perf_counter()
                # ADMM's support is nearly right, its values are not: at first nothing enters.
                entering = self._entering(i, gradient[i]) if round_number else np.zeros(0, dtype=np.intp)
                row = RowQuadratic(gram, self.kink[i], self.in_ball, radius[i])
                self.w[i], self.multiplier[i] = minimise_on_pattern(
                    row, self.w[i], gradient[i], entering, float(self.multiplier[i])
                )
                self.seconds[i] += time.perf_counter() - begun
            self._judge()
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

    def _judge(self) -> None:
        """Certify the new coefficients, take back what rose, and remember what has the smallest gap."""
        old, new = self.certificate, self.problem.certify(torch.from_numpy(self.w))
        kept = new.objective <= old.objective * (1 + self.ROUNDING)
        self.certificate = old.replaced(kept, new)
        self.w[~kept.numpy()] = self.before[~kept.numpy()]
        self.before = self.w.copy()
        better = self.certificate.dual_gap < self.best_certificate.dual_gap
        self.best_certificate = self.best_certificate.replaced(better, self.certificate)
        self.best[better.numpy()] = self.w[better.numpy()]
