"""Rounds of polish and certificate, until every row is proved or given up."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.admm import Start
from simplicit.rows.outcome import BlockSolution, RowStatus, Stopwatch
from simplicit.rows.polish import Polish
from simplicit.rows.problem import RowProblem

__all__ = ["Rounds"]


class Rounds:
    """The rounds of a group of rows: all that are not converged are improved and certified together.

    ``best`` has for every row the coefficients with the smallest gap so far.

    Parameters
    ----------
    problem : RowProblem
    tol : float
    start : Start
    watch : Stopwatch
    """

    #: Rounds in which nothing but digits could be gained, and were not, after which a row is given up.
    PATIENCE = 3
    #: The same of rounds in which the gap was not halved, whatever else they changed: columns that are nearly equal
    #: change places for ever.
    SLOW = 25
    #: At most so many rounds.
    MOST_ROUNDS = 200

    def __init__(self, problem: RowProblem, tol: float, start: Start, watch: Stopwatch) -> None:
        self.problem, self.tol, self.watch = problem, tol, watch
        with watch.stage("polish"):
            self.polish = Polish(problem, start)
        with watch.stage("certificate"):
            self.certificate = problem.certify(None)
        self.best = torch.zeros_like(start.w)
        self._reset()

    def _reset(self) -> None:
        rows = len(self.best)
        self.seconds = np.zeros(rows)
        self.given_up = torch.zeros(rows, dtype=torch.bool, device=self.best.device)

    def renew(self, problem: RowProblem, watch: Stopwatch) -> None:
        """The same rows under another penalty or ball: the polish goes on where it is."""
        self.problem, self.watch = problem, watch
        with watch.stage("polish"):
            self.polish.renew(problem)
        with watch.stage("certificate"):
            self.certificate = self.polish.certify()
            self.best = self.polish.w.clone()
        self._reset()

    def run(self, *, last: bool = True) -> None:
        """Polish every row until it is proved or given up; unless it is the last time, keep all polishes."""
        rows = torch.arange(len(self.best), device=self.best.device)
        solved = self.certificate.converged(self.tol) if self.best.any() else self.certificate.dual_gap == 0
        parts: list[tuple[Tensor, Polish]] = []
        polish, stalled, slow = self.polish, torch.zeros_like(rows), torch.zeros_like(rows)
        smallest = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        done = solved
        for _ in range(self.MOST_ROUNDS):
            finished, going = torch.nonzero(done)[:, 0], torch.nonzero(~done)[:, 0]
            if len(finished) and not last:
                parts.append((rows[finished], polish.select(finished)))
            if not len(going):
                break
            if len(finished):
                rows, stalled, slow, smallest = (a[going] for a in (rows, stalled, slow, smallest))
                polish = polish.select(going)
            begun = time.perf_counter()
            changed = self._improve(polish)
            gap = self._judge(rows, polish)
            halved = gap < 0.5 * smallest
            stalled, slow = torch.where(changed | halved, 0, stalled + 1), torch.where(halved, 0, slow + 1)
            smallest = torch.where(halved, gap, smallest)
            polish.worn |= stalled > 0
            lost = (stalled > self.PATIENCE) | (slow > self.SLOW)
            done = self.certificate.select(rows).converged(self.tol) & ~polish.idle()
            self.given_up[rows[lost & ~done]] = True
            done = done | lost
            self.seconds[rows.cpu().numpy()] += (time.perf_counter() - begun) / len(rows)
        else:
            parts.append((rows, polish))
        if not last:
            self.polish = Polish.joined(self.problem, parts)

    def _improve(self, polish: Polish) -> Tensor:
        with self.watch.stage("polish"):
            changed = polish.improve()
            self.watch.move(polish.factoring, "polish", "factor")
            polish.factoring = 0.0
            polish.w = polish.problem.feasible(polish.w, nearly=True)
        return changed

    def _judge(self, rows: Tensor, polish: Polish) -> Tensor:
        """Certify the new coefficients and remember those with the smallest gap; returns the gaps of all so far."""
        with self.watch.stage("certificate"):
            new = polish.certify()
            better = new.dual_gap < self.certificate.dual_gap[rows]
            self.certificate.update(rows[better], new.select(better))
            self.best[rows[better]] = polish.w[better]
        return self.certificate.dual_gap[rows]

    @property
    def status(self) -> npt.NDArray[np.int8]:
        converged = self.certificate.converged(self.tol).cpu().numpy()
        given_up = np.where(self.given_up.cpu().numpy(), RowStatus.ACCURACY_LIMIT, RowStatus.ROUND_LIMIT)
        return np.where(converged, RowStatus.CONVERGED, given_up).astype(np.int8)

    def solution(self) -> BlockSolution:
        with self.watch.stage("certificate"):
            return self.problem.solution(
                self.best.clone(), self.certificate, self.status, self.seconds, self.watch.seconds
            )
