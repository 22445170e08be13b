"""What the benchmarks measure themselves, from coefficients alone: objective, duality gap, feasibility.

Needs NumPy only, so that the peers, which live in an environment of their own, are judged by the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Relative excess over the radius from which a row counts as infeasible.
FEASIBLE = 1e-6
#: Relative difference of objectives that counts as equal.
EQUAL = 1e-6


@dataclass(frozen=True)
class Measured:
    """Figures of r rows, each array of shape (r,).

    ``relative`` is gap / max(objective, 1e-6·λ‖z‖²); ``excess`` is ‖w_J‖₁/κ − 1, or 0 inside the ball. The gap proves
    something only where the row is feasible.
    """

    objective: Array
    gap: Array
    relative: Array
    excess: Array

    @property
    def infeasible(self) -> npt.NDArray[np.bool_]:
        return self.excess > FEASIBLE


def measure(
    features: Array, targets: Array, w: Array, weight: float, beta: float, kappa: float | None, n_ball: int
) -> Measured:
    """Objective and gap of λ‖z − Φw‖² + β‖w‖₁ subject to ‖w_J‖₁ ≤ κ, J the first `n_ball` columns.

    The dual point is a multiple of the residual, θ = s·2λ(z − Φw) with |Φⱼᵀθ| ≤ β off the ball, and the least
    multiplier that fits, μ = max(0, max over J of |Φⱼᵀθ| − β):

        dual(s) = zᵀθ − ‖θ‖²/(4λ) − κμ

    is concave in s, and its best s is found in closed form: two parabolas meet where μ becomes positive.

    Parameters
    ----------
    features : (m, d) array
    targets : (m, r) array
    w : (r, d) array
    weight, beta : float
        λ and β.
    kappa : float or None
        Radius; None for no ball.
    n_ball : int
        Number of leading columns in the ball; ignored where there is none.
    """
    z = targets.T
    residual = z - w @ features.T
    objective = weight * (residual**2).sum(1) + beta * np.abs(w).sum(1)
    theta = 2 * weight * residual
    slopes = np.abs(theta @ features)
    inside = slopes[:, :n_ball].max(axis=1) if kappa is not None else np.zeros(len(w))
    outside = slopes[:, n_ball if kappa is not None else 0 :].max(axis=1, initial=0.0)
    linear, square = (z * theta).sum(1), np.maximum((theta**2).sum(1) / (4 * weight), 1e-300)
    radius = 0.0 if kappa is None else kappa
    without = linear / (2 * square)
    within = (linear - radius * inside) / (2 * square)
    kink = beta / np.maximum(inside, 1e-300)
    s = np.maximum(within, np.minimum(without, kink)).clip(0.0, beta / np.maximum(outside, 1e-300))
    dual = s * linear - s**2 * square - radius * np.maximum(s * inside - beta, 0.0)
    gap = objective - dual
    norm = np.abs(w[:, :n_ball]).sum(1)
    return Measured(
        objective=objective,
        gap=gap,
        relative=gap / np.maximum(objective, 1e-6 * weight * (z**2).sum(1)),
        excess=np.zeros(len(w)) if kappa is None else np.maximum(norm / kappa - 1.0, 0.0),
    )


def compare(ours: Measured, theirs: Measured, solved: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Row by row: where a peer's objective is lower, equal or higher, within :data:`EQUAL`, and where it is infeasible.

    An infeasible row counts as such and not by its objective; rows that the peer did not solve are left out.
    """
    feasible = solved & ~theirs.infeasible
    difference = (theirs.objective - ours.objective) / np.maximum(ours.objective, 1e-300)
    return {
        "peer_better": int((feasible & (difference < -EQUAL)).sum()),
        "equal": int((feasible & (np.abs(difference) <= EQUAL)).sum()),
        "peer_worse": int((feasible & ~(difference <= EQUAL)).sum()),
        "peer_infeasible": int((solved & theirs.infeasible).sum()),
        "peer_certified": int((feasible & (theirs.relative <= 1e-6)).sum()),
        "peer_largest_relative_gap": float(theirs.relative[solved].max()) if solved.any() else None,
        "largest_objective_excess": float(difference[solved].max()) if solved.any() else None,
        "largest_ball_excess": float(theirs.excess[solved].max()) if solved.any() else None,
    }
