"""One block of rows from start to certificate: ADMM on all, then rounds of polish on those not yet converged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.admm import admm
from simplicit.rows.ball import project_into_ball, shrink_into_ball
from simplicit.rows.face import Row
from simplicit.rows.polish import RowPolish
from simplicit.rows.problem import RowProblem

__all__ = ["STAGES", "BlockSolution", "RowStatus", "Stopwatch", "solve_block"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Where the time goes.
STAGES = ("gram", "iterations", "polish", "certificate")
#: Bytes of factorisations that a block keeps at a time.
FACTOR_BYTES = 2**26


class RowStatus(IntEnum):
    """How a row ended."""

    CONVERGED = 0
    ACCURACY_LIMIT = 1
    ROUND_LIMIT = 2
    INFEASIBLE = 3

    @property
    def advice(self) -> str:
        """What to do about it, for people."""
        return {
            RowStatus.CONVERGED: "nothing to do: the duality gap is within the tolerance",
            RowStatus.ACCURACY_LIMIT: "the steps have stopped to help, because columns are dependent up to rounding or "
            "the penalty is tiny, so that float64 cannot prove more: raise tol or the penalty, or drop such columns",
            RowStatus.ROUND_LIMIT: "the active set was still changing after the last round: raise tol or the penalty",
            RowStatus.INFEASIBLE: "no coefficients match the target exactly: take fewer samples, more columns or a "
            "larger ball, or match approximately with simplicit.L1",
        }[self]


@dataclass
class Stopwatch:
    """Processor seconds of this thread by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.thread_time() - begun


@dataclass(frozen=True)
class BlockSolution:
    """Coefficients of a block of rows and what is known of each; arrays (r,) but for ``coefficients`` (r, k).

    ``residual`` is ‖z − Φw‖, ``timings`` processor seconds by stage. All in the units of the solver.
    ``cardinality_gap`` is NaN but for penalties that relax a cardinality.
    """

    coefficients: Array
    objective: Array
    dual_gap: Array
    relative_gap: Array
    cardinality_gap: Array
    multiplier: Array
    residual: Array
    status: npt.NDArray[np.int8]
    seconds: Array
    timings: dict[str, float]


def solve_block(
    problem: RowProblem, *, tol: float, start: Tensor | None = None, max_rounds: int = 200
) -> BlockSolution:
    """Solve a block of row problems to relative duality gap ``tol``.

    Parameters
    ----------
    problem : RowProblem
    tol : float
        A row is converged when gap ≤ tol·max(primal, 1e-6·½‖z‖²).
    start : (r, k) tensor, optional
        Coefficients to begin from; rows of it that are no better than zero are not used.
    max_rounds : int
        At most so many rounds in which columns enter.
    """
    watch = Stopwatch()
    begun = time.perf_counter()
    with watch.stage("iterations"):
        w = _first_guess(problem, start)
    polishing = _Polishing(problem, tol, w, watch)
    polishing.seconds += (time.perf_counter() - begun) / len(w)
    polishing.run(max_rounds)
    return polishing.solution()


def _first_guess(problem: RowProblem, start: Tensor | None) -> Array:
    """Feasible coefficients with nearly the right support, or zero where the polish finds it by itself."""
    # Where no column wants in at zero, zero is the solution, exactly.
    wanted = problem.cross.abs() > problem.penalty.kink
    if problem.allowed is not None:
        wanted &= problem.allowed
    moving = wanted.any(1).cpu().numpy()
    if not moving.any():
        return np.zeros(problem.shape)
    if start is not None:
        start = _useful(problem, start)
    # Without a whole Gram matrix an iteration costs as much as a round of the polish, which lets columns in little by
    # little.
    if problem.design.forms_gram:
        w = admm(problem, start).cpu().numpy()
    else:
        w = (torch.zeros_like(problem.cross) if start is None else start).cpu().numpy()
    w[~moving] = 0.0
    return _feasible(problem, w)


def _feasible(problem: RowProblem, w: Array) -> Array:
    """The nearest to ``w`` on the support and in the ball, to the last bit."""
    if problem.allowed is not None:
        w = w * problem.allowed.cpu().numpy()
    inside, weights = problem.ball_columns.cpu().numpy(), problem.ball_weights.cpu().numpy()[0]
    if len(inside):
        w = w.copy()
        projected = project_into_ball(torch.from_numpy(w[:, inside]), problem.ball_weights.cpu(), problem.radius.cpu())
        for i, radius in enumerate(problem.radius[:, 0].tolist()):
            w[i, inside] = shrink_into_ball(projected[i].numpy(), radius, weights)
    return w


def _useful(problem: RowProblem, start: Tensor) -> Tensor:
    """The start, made feasible, with the rows at zero that are no better than zero."""
    start = torch.from_numpy(_feasible(problem, start.cpu().numpy())).to(problem.cross.device)
    better = problem.certify(start).objective < 0.5 * problem.energy
    return torch.where(better[:, None], start, 0.0)


class _Polishing:
    """The rounds of a block: improve the rows that are not converged, one by one, then certify all of them at once.

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

    def __init__(self, problem: RowProblem, tol: float, w: Array, watch: Stopwatch) -> None:
        self.problem, self.tol, self.w, self.watch = problem, tol, w, watch
        rows, k = w.shape
        penalty = problem.penalty
        self.kink = np.broadcast_to(penalty.kink.cpu().numpy(), w.shape)
        if problem.allowed is not None:
            self.kink = np.where(problem.allowed.cpu().numpy(), self.kink, np.inf)
        self.curvature = np.broadcast_to(penalty.curvature.cpu().numpy(), w.shape)
        self.threshold = np.broadcast_to(penalty.threshold.cpu().numpy(), w.shape)
        self.in_ball = np.zeros(k)
        self.in_ball[problem.ball_columns.cpu().numpy()] = problem.ball_weights.cpu().numpy()[0]
        self.radius = problem.radius[:, 0].tolist()
        self.multiplier, self.seconds = np.zeros(rows), np.zeros(rows)
        self.lowest, self.stalled = np.full(rows, np.inf), np.zeros(rows, dtype=int)
        with watch.stage("certificate"):
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
            multiplier=np.maximum(self.multiplier, 0.0),
            residual=fit.sqrt().cpu().numpy(),
            status=self.status,
            seconds=self.seconds,
            timings=self.watch.seconds,
        )

    def run(self, max_rounds: int) -> None:
        """Polish the rows in groups whose factorisations fit in memory together."""
        # ADMM's values have few digits, also where they are enough for the tolerance.
        waiting = np.flatnonzero(self.best_certificate.dual_gap.cpu().numpy() > 0)
        expected = np.maximum(np.count_nonzero(self.w, axis=1), 64).astype(float) ** 2 * 8
        while len(waiting):
            size = max(1, int(np.searchsorted(np.cumsum(expected[waiting]), FACTOR_BYTES)))
            self._run_group(waiting[:size], max_rounds)
            waiting = waiting[size:]

    def _run_group(self, group: Index, max_rounds: int) -> None:
        polishes = {i: RowPolish(self._row(i)) for i in group.tolist()}
        for round_number in range(max_rounds):
            gradient = self.certificate.gradient.cpu().numpy()
            with self.watch.stage("polish"):
                for i, polish in polishes.items():
                    begun = time.perf_counter()
                    # ADMM's support is nearly right, its values are not: at first nothing enters.
                    first = round_number == 0 and self.w[i].any()
                    entering = np.zeros(0, dtype=np.intp) if first else self._entering(i, gradient[i])
                    self.w[i] = polish.improve(self.w[i], gradient[i], entering)
                    self.multiplier[i] = polish.multiplier
                    self.seconds[i] += time.perf_counter() - begun
            for i in self._judge(np.fromiter(polishes, dtype=np.intp)).tolist():
                polishes[i].cautious = True
            status = self.status
            polishes = {i: polish for i, polish in polishes.items() if status[i] == RowStatus.ROUND_LIMIT}
            if not polishes:
                break

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
