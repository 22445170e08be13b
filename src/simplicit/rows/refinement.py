"""A group of rows is refined by polish and certificate in turn, until every row is proved or given up."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.admm import Start
from simplicit.rows.batch import Batch
from simplicit.rows.certificate import certify
from simplicit.rows.outcome import BlockSolution, RowStatus, Stage, Stopwatch
from simplicit.rows.polish import Polish
from simplicit.rows.problem import RowProblem

#: Iterations in which nothing but digits could be gained, and were not, after which a row is given up. The family does
#: not come to that, nor do 180 columns of rank 30 that are equal in pairs up to 1e-9.
PATIENCE = 3
#: The same of iterations in which the gap was not halved, whatever else they changed: columns that are nearly equal
#: change places for ever.
SLOW = 25
#: At most so many iterations: no group of the family needs more than 16.
MOST_ITERATIONS = 200


@dataclass(eq=False)
class _Open(Batch):
    """These rows are neither proved nor given up."""

    rows: Tensor  # their places in the group
    polish: Polish
    stalled: Tensor  # iterations since something changed or the gap was halved
    slow: Tensor  # iterations since the gap was halved
    smallest: Tensor  # the gap then

    @classmethod
    def of(cls, polish: Polish) -> _Open:
        rows = torch.arange(len(polish.w), device=polish.w.device)
        smallest = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        return cls(rows, polish, torch.zeros_like(rows), torch.zeros_like(rows), smallest)

    def count(self, changed: Tensor, gap: Tensor) -> Tensor:
        """Count an iteration, after which the gaps are these, and say which rows are lost, (r,)."""
        halved = gap < 0.5 * self.smallest
        self.stalled = torch.where(changed | halved, 0, self.stalled + 1)
        self.slow = torch.where(halved, 0, self.slow + 1)
        self.smallest = torch.where(halved, gap, self.smallest)
        self.polish.stale |= self.stalled > 0
        return (self.stalled > PATIENCE) | (self.slow > SLOW)


class Refinement:
    """All rows of a group that are not converged are improved and certified together.

    ``best`` has for every row the coefficients with the smallest gap so far.
    """

    def __init__(self, problem: RowProblem, tol: float, start: Start, watch: Stopwatch) -> None:
        self.problem, self.tol, self.watch = problem, tol, watch
        with watch.stage(Stage.POLISH):
            self.polish = Polish.begin(problem, start)
        with watch.stage(Stage.CERTIFICATE):
            self.certificate = certify(problem, None)
        self.best = torch.zeros_like(start.w)
        if problem.least_squares:
            self._take(start.w)
        self._reset()

    def _take(self, w: Tensor) -> None:
        """Take what is proved where the problem begins: a polish could only move digits."""
        with self.watch.stage(Stage.CERTIFICATE):
            new = certify(self.problem, w)
            rows = torch.nonzero(new.converged(self.tol) & (new.dual_gap < self.certificate.dual_gap))[:, 0]
            self.certificate.put(rows, new.select(rows))
            self.best[rows] = w[rows]

    def _reset(self) -> None:
        rows = len(self.best)
        self.seconds = np.zeros(rows)
        self.given_up = torch.zeros(rows, dtype=torch.bool, device=self.best.device)

    def continue_with(self, problem: RowProblem, watch: Stopwatch) -> None:
        """Take the same rows under another penalty or ball: the polish goes on where it is."""
        self.problem, self.watch = problem, watch
        with watch.stage(Stage.POLISH):
            self.polish.continue_with(problem)
        with watch.stage(Stage.CERTIFICATE):
            self.certificate = self.polish.certify()
            self.best = self.polish.w.clone()
        self._reset()

    def run(self, *, last: bool = True) -> None:
        """Refine every row until it is proved or given up; unless it is the last time, keep all polishes."""
        going = _Open.of(self.polish)
        parts: list[_Open] = []
        done = self.certificate.converged(self.tol) if self.best.any() else self.certificate.dual_gap == 0
        for _ in range(MOST_ITERATIONS):
            finished = torch.nonzero(done)[:, 0]
            if len(finished):
                if not last:
                    parts.append(going.select(finished))
                if len(finished) == len(done):
                    break
                going = going.select(torch.nonzero(~done)[:, 0])
            done = self._iterate(going)
        else:
            parts.append(going)
        if not last:
            whole = _Open.joined(parts)
            self.polish = whole.polish.select(whole.rows.argsort())

    def _iterate(self, going: _Open) -> Tensor:
        """Improve and certify open rows, and say which are done, (r,)."""
        begun = time.perf_counter()
        rows, polish = going.rows, going.polish
        changed = self._improve(polish)
        lost = going.count(changed, self._certify(rows, polish))
        done = self.certificate.converged(self.tol)[rows] & ~polish.wrongly_zero()
        self.given_up[rows[lost & ~done]] = True
        self.seconds[rows.cpu().numpy()] += (time.perf_counter() - begun) / len(rows)
        return done | lost

    def _improve(self, polish: Polish) -> Tensor:
        with self.watch.stage(Stage.POLISH):
            changed = polish.improve()
            self.watch.move(polish.factor_seconds, Stage.POLISH, Stage.FACTOR)
            polish.factor_seconds = 0.0
            polish.w = polish.problem.feasible(polish.w, nearly=True)
        return changed

    def _certify(self, rows: Tensor, polish: Polish) -> Tensor:
        """Certify the new coefficients, remember those with the smallest gap, and return the least gaps so far."""
        with self.watch.stage(Stage.CERTIFICATE):
            new = polish.certify()
            better = new.dual_gap < self.certificate.dual_gap[rows]
            self.certificate.put(rows[better], new.select(better))
            self.best[rows[better]] = polish.w[better]
        return self.certificate.dual_gap[rows]

    @property
    def status(self) -> npt.NDArray[np.int8]:
        """This is how every row has ended, (r,)."""
        converged = self.certificate.converged(self.tol).cpu().numpy()
        given_up = np.where(self.given_up.cpu().numpy(), RowStatus.ACCURACY_LIMIT, RowStatus.ITERATION_LIMIT)
        return np.where(converged, RowStatus.CONVERGED, given_up).astype(np.int8)

    def solution(self) -> BlockSolution:
        """Return the best coefficients and what is proved of them."""
        with self.watch.stage(Stage.CERTIFICATE):
            return BlockSolution.certified(
                self.problem, self.best.clone(), self.certificate, self.status, self.seconds, self.watch.seconds
            )
