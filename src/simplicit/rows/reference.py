r"""The reference solver gives a second opinion on a block: it models every row in CVXPY and solves it by Clarabel.

The model is written from the primal in ``problem`` alone and shares nothing with ADMM and polish; the coefficients that
come back are cleaned of rounding and certified like any others.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simplicit.errors import MissingExtraError
from simplicit.rows.ball import shrink_into_ball
from simplicit.rows.batch import Array
from simplicit.rows.certificate import certify
from simplicit.rows.equality import MATCHED, prove_equality
from simplicit.rows.outcome import BlockSolution, RowStatus, Stage, Stopwatch
from simplicit.rows.problem import RowProblem, SampleProblem

#: Coefficients below this share of the row's largest are what an interior-point method leaves of a zero.
NEGLIGIBLE = 1e-7
#: Clarabel's tolerances, in turn; what comes of the first that it reaches is certified like anything else.
TOLERANCES = (1e-12, 1e-10, 1e-8, 1e-6)


def reference_path(problems: Sequence[RowProblem], tol: float, start: Any = None) -> list[BlockSolution]:
    """Solve a block of rows with CVXPY and Clarabel, as ``solve_block_path`` does; without them MissingExtraError."""
    return [_solved_block(problem, tol) for problem in problems]


def _solved_block(problem: RowProblem, tol: float) -> BlockSolution:
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError as error:
        message = "solver='reference' needs CVXPY and Clarabel: pip install 'simplicit[cvxpy]'"
        raise MissingExtraError(message) from error
    rows = problem.shape[0]
    w, multiplier, seconds = np.zeros(problem.shape), np.zeros(rows), np.zeros(rows)
    matched, theta = np.ones(rows, dtype=bool), np.zeros((rows, problem.design.n_samples or 0))
    for i in range(rows):
        begun = time.perf_counter()
        model = _Model(problem, i, cvxpy)
        w[i], multiplier[i], matched[i] = model.solve()
        if problem.penalty.equality and matched[i]:
            theta[i] = model.dual()
        seconds[i] = time.perf_counter() - begun
    block = _judged(problem, w, multiplier, seconds, tol)
    if not problem.penalty.equality:
        return block
    assert isinstance(problem, SampleProblem)
    proved = prove_equality(problem, block, theta, tol)
    return replace(proved, status=np.where(matched, proved.status, RowStatus.INFEASIBLE).astype(np.int8))


class _Model:
    """It models one row in CVXPY."""

    def __init__(self, problem: RowProblem, i: int, cvxpy: Any) -> None:
        self.cp, self.problem, self.i = cvxpy, problem, i
        penalty, k = problem.penalty, problem.shape[1]
        p, c, threshold = (a[i].cpu().numpy() for a in penalty.expanded(problem.shape))
        self.w = cvxpy.Variable(k)
        self.priced = p @ cvxpy.abs(self.w)
        if c.any():
            beyond = cvxpy.pos(cvxpy.abs(self.w) - threshold)
            self.priced = self.priced + cvxpy.sum_squares(cvxpy.multiply(np.sqrt(c / 2), beyond))
        self.constraints: list[Any] = []
        self.ball: Any = None
        self.match: Any = None
        inside = problem.ball_columns.cpu().numpy()
        if len(inside):
            weights = problem.ball_weights.cpu().numpy()[0]
            self.ball = weights @ cvxpy.abs(self.w[inside]) <= float(problem.radius[i, 0])
            self.constraints.append(self.ball)
        if problem.allowed is not None and not bool(problem.allowed[i].all()):
            self.constraints.append(self.w[np.flatnonzero(~problem.allowed[i].cpu().numpy())] == 0)

    def solve(self) -> tuple[Array, float, bool]:
        """Return w, the multiplier of the ball, and whether exact matching was possible."""
        if not self.problem.penalty.equality:
            return *self._solved(0.5 * self._misfit() + self.priced, self.constraints), True
        phi, z = self._samples()
        self.match = phi @ self.w == z
        w, mu = self._solved(self.priced, [*self.constraints, self.match])
        if np.linalg.norm(z - phi @ w) <= MATCHED * np.linalg.norm(z):
            return w, mu, True
        return *self._solved(self._misfit(), self.constraints), False

    def dual(self) -> Array:
        """Return θ of exact matching, with the sign that makes zᵀθ a lower bound."""
        theta = np.asarray(self.match.dual_value)
        return theta if theta @ self._samples()[1] >= 0 else -theta

    def _samples(self) -> tuple[Array, Array]:
        assert isinstance(self.problem, SampleProblem)
        return self.problem.design.transposed_array.T, self.problem.targets[self.i].cpu().numpy()

    def _misfit(self) -> Any:
        """Model ‖z − Φw‖², from the samples or, up to a constant, from G."""
        if isinstance(self.problem, SampleProblem):
            phi, z = self._samples()
            return self.cp.sum_squares(z - phi @ self.w)
        gram = self.problem.design.gram.cpu().numpy()
        values, vectors = np.linalg.eigh(gram)
        root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        return self.cp.sum_squares(root @ self.w) - 2 * self.problem.cross[self.i].cpu().numpy() @ self.w

    def _solved(self, objective: Any, constraints: list[Any]) -> tuple[Array, float]:
        """Return w and the multiplier, to the tightest tolerance that Clarabel reaches; zero where it reaches none."""
        model = self.cp.Problem(self.cp.Minimize(objective), constraints)
        for tol in TOLERANCES:
            with warnings.catch_warnings(), contextlib.suppress(self.cp.SolverError):
                warnings.simplefilter("ignore")
                model.solve(solver=self.cp.CLARABEL, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
                if self.w.value is not None and np.isfinite(self.w.value).all():
                    mu = 0.0 if self.ball is None else float(np.max(self.ball.dual_value))
                    return np.asarray(self.w.value), mu
        return np.zeros(self.w.shape), 0.0


def _judged(problem: RowProblem, w: Array, multiplier: Array, seconds: Array, tol: float) -> BlockSolution:
    """Clean the coefficients of rounding and certify them."""
    inside, weights = problem.ball_columns.cpu().numpy(), problem.ball_weights.cpu().numpy()[0]
    for i, row in enumerate(w):
        row[np.abs(row) <= NEGLIGIBLE * np.abs(row).max(initial=0.0)] = 0.0
        if problem.allowed is not None:
            row[~problem.allowed[i].cpu().numpy()] = 0.0
        if len(inside):
            row[inside] = shrink_into_ball(row[inside], float(problem.radius[i, 0]), weights)
    tensor = problem.tensor(w)
    certificate = certify(problem, tensor, problem.tensor(multiplier))
    status = np.where(certificate.converged(tol).cpu().numpy(), RowStatus.CONVERGED, RowStatus.ACCURACY_LIMIT)
    watch = Stopwatch()
    watch.seconds[Stage.ITERATIONS] = seconds.sum()
    return BlockSolution.certified(problem, tensor, certificate, status.astype(np.int8), seconds, watch.seconds)
