"""One block of rows from start to certificate: ADMM on all of them, then rounds of polish, group by group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.admm import admm
from simplicit.rows.ball import project_into_ball, shrink_into_ball
from simplicit.rows.outcome import BlockSolution, RowStatus, Stopwatch
from simplicit.rows.problem import RowProblem
from simplicit.rows.rounds import Rounds

__all__ = ["FACTOR_BYTES", "solve_block", "solve_block_path"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Bytes of factorisations that a block keeps at a time.
FACTOR_BYTES = 2**26
#: Up to so many columns ADMM finds the support; the inverse that it reads is small enough for the caches.
ADMM_COLUMNS = 2048
#: ADMM helps a warm start where more columns a row want in than this, or than a share of those that are in.
NEAR_LEAST, NEAR_SHARE = 32, 0.05


def solve_block(problem: RowProblem, *, tol: float, start: Tensor | None = None) -> BlockSolution:
    """Solve a block of row problems to relative duality gap ``tol``.

    Parameters
    ----------
    problem : RowProblem
    tol : float
        A row is converged when gap ≤ tol·max(primal, 1e-6·½‖z‖²).
    start : (r, k) tensor, optional
        Coefficients to begin from; rows of it that are no better than zero are not used.
    """
    begun, watch = time.perf_counter(), Stopwatch()
    with watch.stage("iterations"):
        w = _first_guess(problem, start)
    share = (time.perf_counter() - begun) / len(w)
    parts = []
    for group in _groups(w):
        rows = torch.from_numpy(group).to(problem.cross.device)
        rounds = Rounds(problem.select(rows), tol, w[group], watch)
        rounds.seconds += share
        rounds.run()
        parts.append(rounds.solution())
        watch = Stopwatch()
    block = BlockSolution.joined(parts)
    failed = np.flatnonzero(block.status != RowStatus.CONVERGED)
    if start is None or not len(failed):
        return block
    # A start can lead where rounding keeps the proof from closing: once more, from nothing.
    rows = torch.from_numpy(failed).to(problem.cross.device)
    return block.improved(failed, solve_block(problem.select(rows), tol=tol))


def solve_block_path(problems: Sequence[RowProblem], *, tol: float, start: Tensor | None = None) -> list[BlockSolution]:
    """Solve the same rows under several penalties and balls, one after another, each from the one before.

    Parameters
    ----------
    problems : sequence of RowProblem
        They differ in penalty and ball alone.
    tol, start
        As for :func:`solve_block`.
    """
    results: list[BlockSolution] = []
    for problem in problems:
        results.append(solve_block(problem, tol=tol, start=start))
        start = torch.from_numpy(results[-1].coefficients).to(problem.cross.device)
    return results


def _groups(w: Array) -> Iterator[Index]:
    """Rows whose factorisations fit in memory together."""
    size = 8 * np.maximum(np.count_nonzero(w, axis=1), 64).astype(float) ** 2
    group = ((np.cumsum(size) - size) // FACTOR_BYTES).astype(int)
    for number in np.unique(group):
        yield np.flatnonzero(group == number)


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
    # With many columns an iteration, which reads a whole inverse, costs as much as a round of the polish, which lets
    # columns in little by little.
    if problem.design.forms_gram and problem.shape[1] <= ADMM_COLUMNS and (start is None or not _near(problem, start)):
        w = admm(problem, start).cpu().numpy()
    else:
        w = (torch.zeros_like(problem.cross) if start is None else start).cpu().numpy()
    w[~(moving & np.isfinite(w).all(1))] = 0.0
    return _feasible(problem, w)


def _near(problem: RowProblem, start: Tensor) -> bool:
    """Whether so few columns want in at ``start``, in the mean over the rows, that the polish does without ADMM."""
    wanting = (problem.residuals(start)[1].abs() > problem.penalty.kink) & (start == 0)
    if problem.allowed is not None:
        wanting &= problem.allowed
    wanting[:, problem.ball_columns] = False  # what these want depends on the multiplier
    return float(wanting.sum()) <= max(NEAR_LEAST * len(start), NEAR_SHARE * int(start.count_nonzero()))


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
