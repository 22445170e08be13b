r"""``solve_rows``: many constrained lassos that share a design, each with a certificate.

The path of the data: check what comes in → centre, if an intercept is wanted → gather rows with the same support on
one design → Gram matrix once per design → blocks of rows on an executor → coefficients, gaps and statuses in the order
of the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, issparse

from simplicit.checks import as_float_array, as_number, as_positive_array, check_finite
from simplicit.errors import ConvergenceError, InputError
from simplicit.executors import make_executor
from simplicit.rows import Ball, BlockSolution, Design, Penalty, RowProblem, Solution, solve_block

__all__ = ["solve_rows"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

#: Rows per block, at most: enough for matrix products to be fast, few enough to share out. The split must not depend on
#: the executor or the number of workers, or the rounding would.
BLOCK_ROWS = 32
#: Largest magnitude of an entry; its inverse is the smallest of a column that is not zero.
LARGEST = 1e60


def solve_rows(
    features: Any,
    targets: Any,
    *,
    penalty: Penalty,
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    tol: float = 1e-6,
    warm_start: Solution | csr_array | npt.ArrayLike | None = None,
    executor: str = "threads",
    workers: int | None = None,
    throw: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    r"""Solve r convex row problems that share the features Φ, with a duality gap for every one.

    For each column z of the targets,

        min over w of  λ‖z − Φw‖² + Σⱼ h(wⱼ)   subject to  ‖w_J‖₁ ≤ κ,  wⱼ = 0 off the support

    which is one row of problem (7) of the paper. A row is converged when
    gap ≤ tol·max(primal, 1e-6·λ‖z‖²); all arithmetic is in float64.

    Parameters
    ----------
    features : (m, d) array, memory map or tensor, float32 or float64
        Φ, samples first.
    targets : (m, r) array or tensor
        One column per row problem.
    penalty : Penalty
        h, such as ``L1(beta=1e-3)``.
    weight : float or (r,) array
        λ > 0.
    ball : Ball, optional
        κ and J. No ball when left out.
    support : boolean array of shape (d,) or (r, d), optional
        Admissible columns, shared or per row. All when left out.
    intercept : bool
        Fit an unpenalised constant as well, by centring; it is in ``solution.intercepts``.
    tol : float
        Relative duality gap.
    warm_start : Solution, (r, d) array or csr_array, optional
        Coefficients to begin from, such as the solution at a nearby strength.
    executor : str
        ``"threads"`` or ``"serial"``. The coefficients are the same, bit for bit.
    workers : int, optional
        Blocks of rows at a time; the number of processors when left out.
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
        For shapes that do not fit, empty, integer or non-finite arrays, or values out of range.
    ConvergenceError
        If a row does not converge and ``throw`` is set; its ``solution`` holds all rows.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> features, targets = rng.normal(size=(50, 200)), rng.normal(size=(50, 3))
    >>> solution = sp.solve_rows(features, targets, penalty=sp.L1(beta=8.0), ball=sp.Ball(radius=1.0))
    >>> bool(solution.converged.all()), bool((abs(solution.coefficients).sum(axis=1) <= 1.0).all())
    (True, True)
    """
    problem = _checked(features, targets, penalty, weight, ball, support, warm_start)
    if not 0 < as_number("tol", tol) < 1:
        raise InputError(f"tol: must lie between 0 and 1, got {tol!r}")
    runner = make_executor(executor, workers)
    centred, centre = problem.centred() if intercept else (problem, None)
    tasks = [task for design in centred.designs() for task in design.tasks()]

    done, results = 0, _Collected(*problem.shape, tol)
    for position, block in runner.run(lambda task: task.solve(centred, tol), tasks):
        results.put(tasks[position], block)
        done += len(tasks[position].rows)
        if progress is not None:
            progress(done, problem.shape[0])
    solution = results.solution(centre)
    if throw and not solution.converged.all():
        raise ConvergenceError(_explain(solution, tol), solution=solution)
    return solution


@dataclass(frozen=True)
class _Task:
    """A block of rows on one design."""

    rows: Index
    columns: Index
    design: Design

    def solve(self, problem: _Checked, tol: float) -> BlockSolution:
        rows, columns = self.rows, self.columns
        start = None if problem.warm_start is None else problem.warm_start[rows].toarray()[:, columns]
        allowed = None if problem.support is None else problem.support[rows][:, columns]
        block = RowProblem(
            design=self.design,
            targets=torch.from_numpy(np.ascontiguousarray(problem.targets[rows])),
            weight=torch.from_numpy(problem.weight[rows, None]),
            penalty=problem.penalty.select(rows, columns),
            allowed=None if allowed is None or allowed.all() else torch.from_numpy(allowed),
            ball_columns=torch.from_numpy(np.flatnonzero(problem.in_ball[columns])),
            radius=torch.from_numpy(problem.radius[rows, None]),
        )
        return solve_block(block, tol=tol, start=None if start is None else torch.from_numpy(start))


@dataclass(frozen=True)
class _SharedDesign:
    """Rows whose supports lie in the same columns."""

    rows: Index
    columns: Index
    features: Array

    def tasks(self) -> list[_Task]:
        columns = self.features[:, self.columns]
        live = columns.any(axis=0)
        design = Design(torch.from_numpy(np.ascontiguousarray(columns[:, live])))
        design.prepare()
        parts = np.array_split(self.rows, -(-len(self.rows) // BLOCK_ROWS))
        return [_Task(part, self.columns[live], design) for part in parts]


@dataclass(frozen=True)
class _Checked:
    """The input in one form: float64, targets rows first, every parameter spread over the rows."""

    features: Array
    targets: Array
    penalty: Penalty
    weight: Array
    in_ball: Mask
    radius: Array
    support: Mask | None
    warm_start: csr_array | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.targets.shape[0], self.features.shape[1]

    def centred(self) -> tuple[_Checked, tuple[Array, Array]]:
        """The problem without its means, and the means: the intercept is unpenalised, so it drops out."""
        feature_mean, target_mean = self.features.mean(axis=0), self.targets.mean(axis=1)
        features = self.features - feature_mean
        # A constant column leaves only rounding behind, which must not count as a direction.
        features[:, self.features.max(axis=0) == self.features.min(axis=0)] = 0.0
        return replace(self, features=features, targets=self.targets - target_mean[:, None]), (
            feature_mean,
            target_mean,
        )

    def designs(self) -> list[_SharedDesign]:
        """Rows gathered by support; where nearly every row has its own, one design on all columns, with masks."""
        r, d = self.shape
        if self.support is None:
            return [_SharedDesign(np.arange(r), np.arange(d), self.features)]
        patterns, group = np.unique(np.packbits(self.support, axis=1), axis=0, return_inverse=True)
        # A Gram matrix of its own pays for four rows or more; a few small groups do no harm.
        if 4 * len(patterns) > r + 4:
            columns = np.flatnonzero(self.support.any(axis=0))
            return [_SharedDesign(np.arange(r), columns, self.features)]
        members = [np.flatnonzero(group.ravel() == g) for g in range(len(patterns))]
        return [_SharedDesign(rows, np.flatnonzero(self.support[rows[0]]), self.features) for rows in members]


_FIGURES = ("objective", "dual_gap", "relative_gap", "multiplier", "seconds")


class _Collected:
    """Blocks, put back in the order of the targets."""

    def __init__(self, n_rows: int, n_columns: int, tol: float) -> None:
        self.shape, self.tol = (n_rows, n_columns), tol
        self.parts: list[tuple[Index, csr_array]] = []
        self.figures = {name: np.zeros(n_rows) for name in _FIGURES}
        self.status = np.zeros(n_rows, dtype=np.int8)

    def put(self, task: _Task, block: BlockSolution) -> None:
        local = csr_array(block.coefficients)
        part = csr_array((local.data, task.columns[local.indices], local.indptr), (len(task.rows), self.shape[1]))
        self.parts.append((task.rows, part))
        for name, values in self.figures.items():
            values[task.rows] = getattr(block, name)
        self.status[task.rows] = block.status

    def solution(self, centre: tuple[Array, Array] | None) -> Solution:
        order = np.argsort(np.concatenate([rows for rows, _ in self.parts]), kind="stable")
        rows = [part for _, part in self.parts]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.indptr) for part in rows]))])
        stacked = csr_array(
            (np.concatenate([p.data for p in rows]), np.concatenate([p.indices for p in rows]), indptr), self.shape
        )
        coefficients = csr_array(stacked[order])
        coefficients.sort_indices()
        intercepts = np.zeros(self.shape[0]) if centre is None else centre[1] - coefficients @ centre[0]
        return Solution(coefficients, intercepts, status=self.status, tol=self.tol, **self.figures)


def _checked(
    features: Any,
    targets: Any,
    penalty: Penalty,
    weight: float | npt.ArrayLike,
    ball: Ball | None,
    support: npt.ArrayLike | None,
    warm_start: Any,
) -> _Checked:
    phi, z = as_float_array("features", features, ndim=2), as_float_array("targets", targets, ndim=2)
    if phi.shape[0] != z.shape[0]:
        raise InputError(f"targets: shape {z.shape} does not fit features {phi.shape}; both need one line per sample")
    for name, array in (("features", phi), ("targets", z)):
        check_finite(name, array)
        _check_magnitude(name, array)
    if isinstance(penalty, type) or not isinstance(penalty, Penalty):
        raise InputError(f"penalty: expected a penalty such as simplicit.L1(beta=1e-3), got {penalty!r}")
    if ball is not None and not isinstance(ball, Ball):
        raise InputError(f"ball: expected simplicit.Ball(radius, columns) or None, got {ball!r}")
    r, d = z.shape[1], phi.shape[1]
    return _Checked(
        features=phi.astype(np.float64, copy=False),
        targets=np.ascontiguousarray(z.T, dtype=np.float64),
        penalty=penalty.broadcast(r, d),
        weight=np.array(np.broadcast_to(as_positive_array("weight", weight, [(r,)]), (r,))),
        in_ball=np.zeros(d, dtype=bool) if ball is None else ball.mask(d),
        radius=np.ones(r) if ball is None else ball.radii(r),
        support=_support(support, r, d),
        warm_start=_start(warm_start, r, d),
    )


def _check_magnitude(name: str, array: npt.NDArray[Any]) -> None:
    """Squares of norms, and products of such squares, must stay within float64."""
    largest = np.abs(array).max(axis=0).astype(np.float64)
    odd = (largest > LARGEST) | ((largest > 0) & (largest < 1 / LARGEST))
    if odd.any():
        column = int(np.argmax(odd))
        raise InputError(
            f"{name}: the largest magnitude in column {column} is {largest[column]:.3g}, outside {1 / LARGEST:.0e} to "
            f"{LARGEST:.0e}, where its square is not a float64 any more; measure it in other units"
        )


def _support(support: npt.ArrayLike | None, n_rows: int, n_columns: int) -> Mask | None:
    if support is None:
        return None
    mask = np.asarray(support)
    if mask.dtype != bool or mask.shape not in ((n_columns,), (n_rows, n_columns)):
        raise InputError(
            f"support: expected booleans of shape ({n_columns},) or ({n_rows}, {n_columns}), "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    return np.array(np.broadcast_to(mask, (n_rows, n_columns)))


def _start(warm_start: Any, n_rows: int, n_columns: int) -> csr_array | None:
    if warm_start is None:
        return None
    if isinstance(warm_start, Solution):
        warm_start = warm_start.coefficients
    start = csr_array(
        warm_start if issparse(warm_start) else as_float_array("warm_start", warm_start, ndim=2), dtype=float
    )
    if start.shape != (n_rows, n_columns):
        raise InputError(f"warm_start: expected shape ({n_rows}, {n_columns}), got {start.shape}")
    check_finite("warm_start", start.data)
    return start


def _explain(solution: Solution, tol: float) -> str:
    failed = np.flatnonzero(~solution.converged)
    worst = int(failed[np.argmax(solution.relative_gap[failed])])
    return (
        f"{len(failed)} of {len(solution.status)} rows did not reach tol={tol:g}, the first is row {failed[0]}; the "
        f"worst is row {worst} with a relative gap of {solution.relative_gap[worst]:.1e} at an objective of "
        f"{solution.objective[worst]:.2e}: {solution.advice(worst)}. With throw=False they are returned, marked"
    )
