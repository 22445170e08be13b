"""An independent twin of the row problem, modelled in CVXPY and solved by Clarabel."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def solve_row(
    features: Array,
    target: Array,
    strengths: Array,
    weight: float,
    *,
    radius: float | None = None,
    in_ball: npt.NDArray[np.bool_] | None = None,
    support: npt.NDArray[np.bool_] | None = None,
    intercept: bool = False,
) -> tuple[float, Array]:
    """The least value of λ‖z − Φw − b‖² + Σ strengthⱼ|wⱼ| under the ball and the support, and its w."""
    d = features.shape[1]
    w, b = cp.Variable(d), cp.Variable()
    residual = target - features @ w - (b if intercept else 0.0)
    constraints = []
    if radius is not None:
        inside = np.ones(d, dtype=bool) if in_ball is None else in_ball
        constraints.append(cp.norm1(w[np.flatnonzero(inside)]) <= radius)
    if support is not None and not support.all():
        constraints.append(w[np.flatnonzero(~support)] == 0)
    objective = weight * cp.sum_squares(residual) + strengths @ cp.abs(w)
    problem = cp.Problem(cp.Minimize(objective), constraints)
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    problem.solve(solver=cp.CLARABEL, **tight)
    return float(problem.value), np.asarray(w.value)
