"""The four optimality conditions of a row problem, checked without any code of the library."""

from __future__ import annotations

import numpy as np

from reference import Array, RowModel


def assert_kkt(
    row: RowModel, w: Array, *, constant: float = 0.0, multiplier: float = 0.0, gap: float = 0.0, label: object = ""
) -> None:
    """Primal feasibility, dual feasibility, stationarity and complementary slackness of one row.

    The gradient g = 2λΦᵀ(z − Φw − b) has to be a subgradient of Σh + μ‖·_J‖₁ at w. A column that misses that by e could
    lower the objective by e²/(4(λ‖Φⱼ‖² + αcⱼ)), or by e|wⱼ| where that is less. It may be worth 1e-11·λ‖z‖², and as
    much as the duality ``gap`` that is claimed.
    """
    inside, allowed = row.inside, np.ones(len(w), dtype=bool) if row.support is None else row.support
    centred = row.intercept * 1.0
    target, features = row.target - centred * row.target.mean(), row.features - centred * row.features.mean(axis=0)
    residual = row.target - row.features @ w - constant
    known = float(target @ target) + 1e-21 * float(row.target @ row.target)  # a mean is known but for rounding
    budget = 4 * gap + 1e-11 * row.weight * known + 1e-200

    # Primal feasibility.
    assert np.isfinite(w).all(), label
    assert not w[~allowed].any(), ("a coefficient stands off the support", label)
    norm = float(abs(w[inside]).sum())
    if row.radius is not None:
        assert norm <= row.radius, (f"outside the ball: {norm!r} > {row.radius!r}", label)
    if row.intercept:
        assert abs(residual.sum()) <= 1e-9 * (len(residual) * abs(row.target).max() + abs(row.features @ w).sum())

    # Dual feasibility.
    assert multiplier >= 0, ("a negative multiplier", label)
    gradient = 2 * row.weight * features.T @ residual
    limit = row.prices.slope(w) + multiplier * inside
    curvature = row.weight * np.square(features).sum(axis=0) + row.prices.alpha * row.prices.factors + 1e-200
    excess = np.maximum(abs(gradient) - limit, 0.0)[(w == 0) & allowed]
    violation = (np.square(excess) / (4 * curvature[(w == 0) & allowed])).max(initial=0.0)
    assert violation <= budget, (f"a column at zero wants in, for {violation / budget:.2e} of what may be", label)

    # Stationarity.
    error = abs(gradient - limit * np.sign(w))
    worth = np.minimum(np.square(error) / (4 * curvature), error * abs(w))[w != 0].max(initial=0.0)
    assert worth <= budget, (f"not stationary on the support, {worth / budget:.2e} of what may be", label)

    # Complementary slackness.
    if row.radius is not None:
        slack = multiplier * (row.radius - norm)
        assert slack <= budget, (f"multiplier {multiplier:.3e} of a slack ball, {slack / budget:.2e}", label)
