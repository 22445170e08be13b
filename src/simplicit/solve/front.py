r"""``solve_rows`` and ``solve_path``: many constrained lassos that share a design, each with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.errors import ConvergenceError
from simplicit.executors import Executor
from simplicit.progress import OnProgress
from simplicit.rows import L1, Ball, Penalty, Solution
from simplicit.solve.input import RowInput, path_problems
from simplicit.solve.options import Method, RunOptions
from simplicit.solve.run import run_problems, strongest


def solve_rows(
    features: Any,
    targets: Any = None,
    *,
    penalty: Penalty,
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    rounds: int = 1,
    tol: float = 1e-6,
    warm_start: Solution | csr_array | npt.ArrayLike | None = None,
    solver: str = "active-set",
    executor: str | Executor = "threads",
    block_rows: int | None = None,
    journal: str | PathLike[str] | None = None,
    device: str = "cpu",
    throw: bool = True,
    progress: OnProgress | None = None,
) -> Solution:
    r"""Solve r convex row problems that share the features Φ, with a duality gap for every one.

    For each column z of the targets,

        min over w of  λ‖z − Φw‖² + Σⱼ h(wⱼ)   subject to  ‖w_J‖₁ ≤ κ,  wⱼ = 0 off the support

    which is one row of problem (7) of the paper; with ``BasisPursuit``, min Σⱼ h(wⱼ) subject to z = Φw besides, (8) and
    (9). A row is converged when gap ≤ tol·objective, or tol·1e-6·λ‖z‖² where the gap may be rounding (see
    :class:`Solution`); all that is proved is proved in float64.

    Parameters
    ----------
    features : (m, d) array, memory map, tensor or data frame of floats; SciPy's sparse matrix or array; or Gram
        Φ, samples first. A memory map with m > d is read in chunks and never whole in memory; of sparse features with
        m > 2d, and more than 8 million places, only ΦᵀΦ is formed, by sparse products, else the columns in the
        support are made dense; a :class:`Gram` has been accumulated from batches.
    targets : (m, r) or (m,) array, tensor or data frame of floats
        One column per row problem, (m,) being one; none with a Gram.
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
    sample_weight : (m,) array, optional
        sᵢ ≥ 0, how much each sample counts: λ Σᵢ sᵢ(zᵢ − φᵢᵀw)² takes the place of the squares. All 1 when left out.
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
    executor : str or Executor
        Where blocks of rows run: ``"threads"``, ``"serial"``, ``"processes"`` or ``"ray"`` (extra ``ray``), or one
        with settings of its own such as ``simplicit.Processes(workers=2)``, which keeps its workers for the next call.
        The coefficients are the same, bit for bit.
    block_rows : int, optional
        Rows per block, at most 32 when left out. Other blocks round otherwise: of two runs that should agree to the bit
        both must have the same.
    journal : path, optional
        A folder in which every block is kept as soon as it is solved. A run that was broken off, by whatever, goes on
        from there when it is called again, and ends with the same solution to the bit.
    device : str
        Where the batched part runs: ``"cpu"`` or ``"cuda"``.
    throw : bool
        Raise if a row does not converge; otherwise return it, marked in ``status``.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress` after every block.

    Returns
    -------
    Solution

    Raises
    ------
    InputError
        For shapes that do not fit, empty, integer or non-finite arrays values out of range, more memory than there is,
        an unknown executor, or a journal of another problem or version, or in use.
    ConvergenceError
        If a row does not converge and ``throw`` is set; its ``solution`` holds all rows.
    ExecutionError
        If workers are lost again and again, or a block fails for a reason of its own.
    DataError
        If the journal cannot be written; the blocks in it are safe.
    MissingExtraError
        If ``solver="reference"`` or ``executor="ray"`` is not installed.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> features, targets = rng.normal(size=(50, 200)), rng.normal(size=(50, 3))
    >>> solution = sp.solve_rows(features, targets, penalty=sp.L1(beta=8.0), ball=sp.Ball(radius=1.0))
    >>> bool(solution.converged.all()), bool((abs(solution.coefficients).sum(axis=1) <= 1.0).all())
    (True, True)
    """
    method = Method(tol=tol, rounds=rounds, solver=solver, block_rows=block_rows)
    options = RunOptions(executor, journal, progress)
    given = RowInput.of(
        features, targets, intercept=intercept, device=device, sample_weight=sample_weight, penalties=[penalty]
    )
    problem = given.problem(penalty, weight, ball, support, warm_start)
    (solution,) = run_problems([problem], method, options).solutions()
    if throw:
        raise_unconverged(solution)
    return solution


def solve_path(
    features: Any,
    targets: Any = None,
    penalties: Sequence[Penalty] | Penalty | None = None,
    *,
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | Sequence[Ball | None] | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    tol: float = 1e-6,
    executor: str | Executor = "threads",
    block_rows: int | None = None,
    journal: str | PathLike[str] | None = None,
    device: str = "cpu",
    throw: bool = True,
    progress: OnProgress | None = None,
) -> list[Solution]:
    """Solve the same rows at several strengths, or under several balls, each from the solution before.

    The features are prepared once and every block of rows goes along the whole path, so that a path costs little more
    than its hardest members. Strong to weak, and small to large balls, is the quick direction.

    Parameters
    ----------
    features, targets, weight, support, intercept, sample_weight, tol, device, throw
        As for :func:`solve_rows`.
    executor, block_rows, journal, progress
        As for :func:`solve_rows`; progress counts rows times members.
    penalties : sequence of Penalty, or one
        One penalty for each member of the path; a single one goes with every ball.
    ball : Ball, sequence of them, or None
        One ball for all members, or one (or None) for each.

    Returns
    -------
    list of Solution
        One per member, each with the certificates of :func:`solve_rows`.

    Raises
    ------
    InputError, ConvergenceError, ExecutionError, DataError
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
    method = Method(tol=tol, block_rows=block_rows)
    options = RunOptions(executor, journal, progress)
    problems = path_problems(
        features,
        targets,
        penalties,
        ball,
        weight,
        support,
        intercept=intercept,
        device=device,
        sample_weight=sample_weight,
    )
    found = run_problems(problems, method, options).solutions()
    if throw:
        for solution in found:
            raise_unconverged(solution)
    return found


def beta_max(
    features: Any,
    targets: Any = None,
    *,
    weight: float | npt.ArrayLike = 1.0,
    column_weights: npt.NDArray[np.float64] | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    sample_weight: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """The least β of every row at which w = 0 solves it, with ``L1(beta, column_weights)``.

    It is max over j of 2λ|Φⱼᵀz|/cⱼ over the admissible columns, 0 where the target is zero or orthogonal to all of
    them, and infinite where a column without a price (c = 0) correlates with the target.

    Parameters
    ----------
    features, targets, weight, support, intercept, sample_weight
        As for :func:`solve_rows`.
    column_weights : array of shape (d,) or (r, d), optional
        c ≥ 0, the price of each column. Default: 1.

    Returns
    -------
    array of float64 (r,)

    Raises
    ------
    InputError
        If an argument has another shape, is not finite or is out of range.
    """
    given = RowInput.of(features, targets, intercept=intercept, device="cpu", sample_weight=sample_weight)
    return strongest(given.problem(L1(1.0, column_weights), weight, None, support, None))


def raise_unconverged(solution: Solution) -> None:
    """Raise :class:`ConvergenceError` if a row, of the solution or of a round before it, is not converged."""
    for number, one in enumerate((*solution.earlier, solution)):
        failed = np.flatnonzero(~one.converged)
        if not len(failed):
            continue
        worst = int(failed[np.argmax(one.relative_gap[failed])])
        raise ConvergenceError(
            f"{len(failed)} of {len(one.status)} rows did not reach tol={one.tol:g}, the first is row {failed[0]}; the "
            f"worst is row {worst} with a relative gap of {one.relative_gap[worst]:.1e} at an objective of "
            f"{one.objective[worst]:.2e}: {one.advice(worst)}",
            solution=replace(one, earlier=solution.earlier[:number]),
        )
