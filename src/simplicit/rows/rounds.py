"""Rounds of polish and certificate, until every row is proved or given up."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.face import Row
from simplicit.rows.outcome import BlockSolution, RowStatus, Stopwatch
from simplicit.rows.polish import RowPolish
from simplicit.rows.problem import RowProblem

__all__ = ["Rounds"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


class Rounds:
    """The rounds of a group of rows: improve those that are not converged, one by one, then certify them together.

    A step that raised the objective by more than rounding, or left the finite numbers, is taken back, so that the
    descent which the polish promises in exact arithmetic holds in float64 too. ``best`` has for every row the
    coefficients with the smallest gap so far.
    """

    #: Rounds without descent after which a row is given up: float64 has no more to give.
    PATIENCE = 10
    #: Relative rise of an objective that counts as rounding.
    ROUNDING = 1e-9
    #: In a round no more columns enter than this, or than a share of those that are in.
    ENTER_LEAST, ENTER_SHARE = 64, 1.0

    #: At most so many rounds in which columns enter.
    MOST_ROUNDS = 200

    def __init__(self, problem: RowProblem, tol: float, w: Array, watch: Stopwatch) -> None:
        self.tol, self.watch = tol, watch
        self.problem, self.w = problem, w.copy()
        rows, k = w.shape
        penalty = problem.penalty
        self.kink, self.curvature, self.threshold = (
            np.broadcast_to(a.cpu().numpy(), w.shape) for a in (penalty.kink, penalty.curvature, penalty.threshold)
        )
        if problem.allowed is not None:
            self.kink = np.where(problem.allowed.cpu().numpy(), self.kink, np.inf)
        self.in_ball = np.zeros(k)
        self.in_ball[problem.ball_columns.cpu().numpy()] = problem.ball_weights.cpu().numpy()[0]
        self.radius = problem.radius[:, 0].tolist()
        self.multiplier, self.seconds = np.zeros(rows), np.zeros(rows)
        self.lowest, self.stalled = np.full(rows, np.inf), np.zeros(rows, dtype=int)
        with self.watch.stage("certificate"):
            self.certificate = problem.certify(self._tensor(w))
        self.before = w.copy()  # the coefficients that ``certificate`` is of
        self.best, self.best_certificate = w.copy(), self.certificate.clone()

    def _tensor(self, w: Array) -> Tensor:
        return torch.from_numpy(w).to(self.problem.cross.device)

    @property
    def status(self) -> npt.NDArray[np.int8]:
        converged = self.best_certificate.converged(self.tol).cpu().numpy()
        given_up = np.where(self.stalled > self.PATIENCE, RowStatus.ACCURACY_LIMIT, RowStatus.ROUND_LIMIT)
        return np.where(converged, RowStatus.CONVERGED, given_up).astype(np.int8)

    def solution(self) -> BlockSolution:
        problem, best = self.problem, self.best_certificate
        with self.watch.stage("certificate"):
            w = self._tensor(self.best)
            excess = problem.penalty.cardinality_excess(w) if problem.penalty.cardinality else torch.nan
            fit, _ = problem.residuals(w)
        return BlockSolution(
            coefficients=self.best,
            objective=best.objective.cpu().numpy(),
            dual_gap=best.dual_gap.cpu().numpy(),
            relative_gap=best.relative_gap.cpu().numpy(),
            cardinality_gap=(best.dual_gap + excess).cpu().numpy(),
            multiplier=best.multiplier.cpu().numpy(),
            residual=fit.sqrt().cpu().numpy(),
            status=self.status,
            seconds=self.seconds,
            timings=self.watch.seconds,
        )

    def run(self) -> None:
        """Polish every row that is not solved exactly, until it is proved or given up."""
        # ADMM's values have few digits, also where they are enough for the tolerance.
        waiting = np.flatnonzero(self.certificate.dual_gap.cpu().numpy() > 0).tolist()
        self.polishes = {i: RowPolish(self._row(i)) for i in waiting}
        for round_number in range(self.MOST_ROUNDS):
            if not waiting:
                break
            gradient = self.certificate.gradient.cpu().numpy()
            before = sum(self.polishes[i].factor_seconds for i in waiting)
            with self.watch.stage("polish"):
                for i in waiting:
                    self._improve(i, gradient[i], first=round_number == 0)
            spent = sum(self.polishes[i].factor_seconds for i in waiting) - before
            self.watch.seconds["polish"] -= spent
            self.watch.seconds["factor"] += spent
            for i in self._judge(np.array(waiting)).tolist():
                self.polishes[i].cautious = True
            status = self.status
            waiting = [i for i in waiting if status[i] == RowStatus.ROUND_LIMIT]

    def _improve(self, i: int, gradient: Array, *, first: bool) -> None:
        begun, polish = time.perf_counter(), self.polishes[i]
        # The support at the start is nearly right, the values are not: at first nothing enters.
        entering = np.zeros(0, dtype=np.intp) if first and self.w[i].any() else self._entering(i, gradient)
        self.w[i] = polish.improve(self.w[i], gradient, entering)
        self.multiplier[i] = polish.multiplier
        self.seconds[i] += time.perf_counter() - begun

    def _row(self, i: int) -> Row:
        return Row(
            self.problem.design, self.kink[i], self.curvature[i], self.threshold[i], self.in_ball, self.radius[i]
        )

    def _entering(self, i: int, gradient: Array) -> Index:
        """The columns of row i that violate the optimality conditions most; only the worst if that did not help."""
        kink = self.kink[i]
        limit = kink + max(self.multiplier[i], 0.0) * self.in_ball
        violation = np.abs(gradient) - limit
        entering = np.flatnonzero((self.w[i] == 0) & (violation > 1e-10 * kink + 1e-15))
        objective = float(self.certificate.objective[i])
        descended, self.lowest[i] = objective < self.lowest[i], min(self.lowest[i], objective)
        most = 1
        if descended and len(entering):
            most = max(self.ENTER_LEAST, int(self.ENTER_SHARE * np.count_nonzero(self.w[i])))
        else:
            self.stalled[i] += 1
        if len(entering) > most:
            entering = np.sort(
                entering[np.argpartition(-violation[entering] / (limit[entering] + 1e-300), most - 1)[:most]]
            )
        return entering

    def _judge(self, rows: Index) -> Index:
        """Certify the new coefficients, take back what rose, and remember what has the smallest gap.

        Returns the rows whose step was taken back.
        """
        with self.watch.stage("certificate"):
            index = torch.from_numpy(rows).to(self.problem.cross.device)
            problem = self.problem if len(rows) == len(self.w) else self.problem.select(index)
            new = problem.certify(self._tensor(self.w[rows]), torch.from_numpy(self.multiplier[rows]).to(index.device))
            old = self.certificate.select(index)
            kept = new.objective <= old.objective * (1 + self.ROUNDING)
            self.certificate.update(index[kept], new.select(kept))
            risen = rows[~kept.cpu().numpy()]
            self.w[risen] = self.before[risen]
            self.before[rows] = self.w[rows]
            better = kept & (new.dual_gap < self.best_certificate.dual_gap[index])
            self.best_certificate.update(index[better], new.select(better))
            improved = rows[better.cpu().numpy()]
            self.best[improved] = self.w[improved]
        return np.asarray(risen)
