r"""``solve_rows`` and ``solve_path``: many constrained lassos that share a design, each with a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.assembly import Collected, Problem
from simplicit.checks import as_count, as_number
from simplicit.errors import ConvergenceError, InputError
from simplicit.executors import make_executor
from simplicit.rowinput import RowInput, check_memory
from simplicit.rows import L1, Ball, BasisPursuit, Gram, Penalty, Solution
from simplicit.rows.reference import reference_path

__all__ = ["beta_max", "solve_path", "solve_rows"]

SOLVERS = ("active-set", "reference")


def solve_rows(
    features: Any,
    targets: Any = None,
    *,
    penalty: Penalty,
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    rounds: int = 1,
    tol: float = 1e-6,
    warm_start: Solution | csr_array | npt.ArrayLike | None = None,
    solver: str = "active-set",
    executor: str = "threads",
    workers: int | None = None,
    device: str = "cpu",
    throw: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    r"""Solve r convex row problems that share the features Φ, with a duality gap for every one.

    For each column z of the targets,

        min over w of  λ‖z − Φw‖² + Σⱼ h(wⱼ)   subject to  ‖w_J‖₁ ≤ κ,  wⱼ = 0 off the support

    which is one row of problem (7) of the paper; with ``BasisPursuit``, min Σⱼ h(wⱼ) subject to z = Φw besides, (8) and
    (9). A row is converged when gap ≤ tol·max(primal, 1e-6·λ‖z‖²); all that is proved is proved in float64.

    Parameters
    ----------
    features : (m, d) array, memory map or tensor, float32 or float64; or Gram
        Φ, samples first. A memory map with m > d is read in chunks and never whole in memory; a :class:`Gram` has been
        accumulated from batches.
    targets : (m, r) array or tensor
        One column per row problem; none with a Gram.
    penalty : Penalty
        h: ``L1``, ``ElasticNet``, ``Perspective``, ``BasisPursuit`` or ``NoPenalty``.
    weight : float or (r,) array
        λ > 0.
    ball : Ball, optional
        κ and J. No ball when left out.
    support : boolean array of shape (d,) or (r, d), optional
        Admissible columns, shared or per row. All when left out.
    intercept : bool
        Fit an unpenalised constant as well, by centring; it is in ``solution.intercepts``.
    rounds : int
        Solve so many times; from the second time on h is multiplied, column by column, by ε/(|wⱼ|‖Φⱼ‖ + ε), with w of
        the round before and ε a tenth of the row's largest |wⱼ|‖Φⱼ‖ (Candès, Wakin and Boyd 2008). Every round is
        certified; the earlier ones are in ``solution.earlier``.
    tol : float
        Relative duality gap.
    warm_start : Solution, (r, d) array or csr_array, optional
        Coefficients to begin from, such as the solution at a nearby strength.
    solver : str
        ``"active-set"``, or ``"reference"`` for a second opinion: every row modelled in CVXPY and solved by Clarabel
        (extra ``cvxpy``), thousands of times slower, with the same certificate.
    executor : str
        ``"threads"`` or ``"serial"``. The coefficients are the same, bit for bit; of ``BasisPursuit``, up to
        rounding.
    workers : int, optional
        Blocks of rows at a time; the number of processors when left out.
    device : str
        Where the batched part runs: ``"cpu"`` or ``"cuda"``.
    throw : bool
        Raise if a row does not converge; otherwise return it, marked in ``status``.
    progress : callable, optional
        Called with (rows done, rows in all) after every block.

    Returns
    -------
    Solution

    Raises
    ------
    InputError
        For shapes that do not fit, empty, integer or non-finite arrays, values out of range, or more memory than there
        is.
    ConvergenceError
        If a row does not converge and ``throw`` is set; its ``solution`` holds all rows.
    MissingExtraError
        If ``solver="reference"`` is not installed.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> features, targets = rng.normal(size=(50, 200)), rng.normal(size=(50, 3))
    >>> solution = sp.solve_rows(features, targets, penalty=sp.L1(beta=8.0), ball=sp.Ball(radius=1.0))
    >>> bool(solution.converged.all()), bool((abs(solution.coefficients).sum(axis=1) <= 1.0).all())
    (True, True)
    """
    run = _Run(solver, executor, workers, tol)
    rounds = as_count("rounds", rounds)
    given = _given(features, targets, [penalty], intercept, device)
    problem = given.problem(penalty, weight, ball, support, warm_start)
    total, count = rounds * problem.shape[0], problem.shape[0]
    solutions: list[Solution] = []
    for _ in range(rounds):
        done = len(solutions) * count
        shown = None if progress is None else lambda rows, _, done=done: progress(done + rows, total)
        solution = run.solve(given, [problem], shown)[0]
        if throw:
            _raise_unconverged(replace(solution, earlier=tuple(solutions)), tol)
        solutions.append(solution)
        if len(solutions) < rounds:
            problem = problem.reweighted(solution.coefficients)
    return replace(solutions[-1], earlier=tuple(solutions[:-1]))


def solve_path(
    features: Any,
    targets: Any = None,
    penalties: Sequence[Penalty] | Penalty | None = None,
    *,
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | Sequence[Ball | None] | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    tol: float = 1e-6,
    executor: str = "threads",
    workers: int | None = None,
    device: str = "cpu",
    throw: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Solution]:
    """Solve the same rows at several strengths, or under several balls, each from the solution before.

    The features are prepared once and every block of rows goes along the whole path, so that a path costs little more
    than its hardest members. Strong to weak, and small to large balls, is the quick direction.

    Parameters
    ----------
    features, targets, weight, support, intercept, tol, executor, workers, device, throw
        As for :func:`solve_rows`.
    penalties : sequence of Penalty, or one
        One penalty for each member of the path; a single one goes with every ball.
    ball : Ball, sequence of them, or None
        One ball for all members, or one (or None) for each.
    progress : callable, optional
        Called with (problems done, problems in all), rows times members.

    Returns
    -------
    list of Solution
        One per member, each with the certificates of :func:`solve_rows`.

    Raises
    ------
    InputError, ConvergenceError
        As :func:`solve_rows`.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> features, targets = rng.normal(size=(50, 200)), rng.normal(size=(50, 3))
    >>> strongest = sp.beta_max(features, targets).max()
    >>> path = sp.solve_path(features, targets, [sp.L1(beta=strongest * share) for share in (1, 0.5, 0.1)])
    >>> [int(solution.coefficients.nnz > 0) for solution in path]
    [0, 1, 1]
    """
    run = _Run("active-set", executor, workers, tol)
    members = _members(penalties, ball)
    given = _given(features, targets, [penalty for penalty, _ in members], intercept, device)
    problems = [given.problem(penalty, weight, one, support, None) for penalty, one in members]
    if any(p.penalty.equality != problems[0].penalty.equality for p in problems):
        raise InputError("penalties: a path cannot mix BasisPursuit with others; solve them apart")
    solutions = run.solve(given, problems, progress)
    if throw:
        for solution in solutions:
            _raise_unconverged(solution, tol)
    return solutions


def beta_max(
    features: Any,
    targets: Any = None,
    *,
    weight: float | npt.ArrayLike = 1.0,
    column_weights: npt.NDArray[np.float64] | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
) -> npt.NDArray[np.float64]:
    """The least β of every row at which w = 0 solves it, with ``L1(beta, column_weights)``; (r,).

    It is max over j of 2λ|Φⱼᵀz|/cⱼ over the admissible columns, 0 where the target is zero or orthogonal to all of
    them, and infinite where a column without a price (c = 0) correlates with the target.
    """
    given = _given(features, targets, [], intercept, "cpu")
    problem = given.problem(L1(1.0, column_weights), weight, None, support, None)
    return problem.strongest()


def _given(features: Any, targets: Any, penalties: list[Any], intercept: bool, device: str) -> RowInput:
    exact = any(isinstance(p, BasisPursuit) or getattr(p, "equality", False) for p in penalties)
    if exact and isinstance(features, Gram):
        raise InputError("features: exact matching needs the samples; pass arrays, not a Gram, for BasisPursuit")
    return RowInput.of(features, targets, intercept=intercept, device=device, exact=exact)


def _members(penalties: Any, ball: Any) -> list[tuple[Penalty, Ball | None]]:
    """Pairs of penalty and ball along the path."""
    many_balls = isinstance(ball, Sequence)
    if isinstance(penalties, Penalty):
        penalties = [penalties] * (len(ball) if many_balls else 1)
    if not isinstance(penalties, Sequence) or isinstance(penalties, str) or not len(penalties):
        raise InputError("penalties: give a sequence of penalties, strongest first, or one and a sequence of balls")
    balls = list(ball) if many_balls else [ball] * len(penalties)
    if len(balls) != len(penalties):
        raise InputError(f"ball: {len(balls)} balls for {len(penalties)} penalties; give one, or one for each")
    return list(zip(penalties, balls, strict=True))


class _Run:
    """How problems are solved: the tolerance, the solver, and where the blocks run."""

    def __init__(self, solver: str, executor: str, workers: int | None, tol: float) -> None:
        if not 0 < as_number("tol", tol) < 1:
            raise InputError(f"tol: must lie between 0 and 1, got {tol!r}")
        if solver not in SOLVERS:
            raise InputError(f"solver: {solver!r} is unknown; choose one of {', '.join(map(repr, SOLVERS))}")
        self.tol = tol
        self.solver = reference_path if solver == "reference" else None
        self.runner = make_executor(executor, workers)

    def solve(
        self, given: RowInput, problems: list[Problem], progress: Callable[[int, int], None] | None
    ) -> list[Solution]:
        """All problems, which differ in penalty and ball alone; block by block, each from the solution before."""
        check_memory(problems[0], given.n_samples, self.runner.workers)
        collected = [Collected(problem, self.tol) for problem in problems]
        done, total = 0, problems[0].shape[0] * len(problems)
        for tasks, seconds in _timed(problems[0].tasks()):
            collected[0].add_seconds({"gram": seconds})
            for position, blocks in self.runner.run(lambda task: task.solve(problems, self.tol, self.solver), tasks):
                for part, block in zip(collected, blocks, strict=True):
                    part.put(tasks[position], block)
                done += len(tasks[position].rows) * len(problems)
                if progress is not None:
                    progress(done, total)
        return [part.solution() for part in collected]


def _timed(batches: Any) -> Any:
    """Each item with the seconds that it took to come."""
    iterator = iter(batches)
    while True:
        begun = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item, time.perf_counter() - begun


def _raise_unconverged(solution: Solution, tol: float) -> None:
    failed = np.flatnonzero(~solution.converged)
    if not len(failed):
        return
    worst = int(failed[np.argmax(solution.relative_gap[failed])])
    raise ConvergenceError(
        f"{len(failed)} of {len(solution.status)} rows did not reach tol={tol:g}, the first is row {failed[0]}; the "
        f"worst is row {worst} with a relative gap of {solution.relative_gap[worst]:.1e} at an objective of "
        f"{solution.objective[worst]:.2e}: {solution.advice(worst)}. With throw=False they are returned, marked",
        solution=solution,
    )
