"""The four optimality conditions of an ℓ1 row problem, checked without any code of the library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def assert_kkt(
    features: Array,
    target: Array,
    w: Array,
    strengths: Array,
    weight: float,
    *,
    radius: float | None = None,
    in_ball: npt.NDArray[np.bool_] | None = None,
    support: npt.NDArray[np.bool_] | None = None,
    multiplier: float = 0.0,
    tol: float = 1e-5,
) -> None:
    """Primal feasibility, dual feasibility, stationarity and complementary slackness of one row.

    ``tol`` is relative to the largest strength plus multiplier.
    """
    d = features.shape[1]
    inside = np.zeros(d, dtype=bool) if radius is None else np.ones(d, dtype=bool) if in_ball is None else in_ball
    allowed = np.ones(d, dtype=bool) if support is None else support
    norm = float(np.abs(w[inside]).sum())

    assert not w[~allowed].any(), "a coefficient stands off the support"
    if radius is not None:
        assert norm <= radius, f"outside the ball: {norm!r} > {radius!r}"
    assert multiplier >= 0, "a negative multiplier"

    gradient = 2 * weight * features.T @ (target - features @ w)
    limit = strengths + multiplier * inside
    scale = tol * limit.max()
    active = w != 0
    stationarity = np.abs(gradient - limit * np.sign(w))[active].max(initial=0.0)
    assert stationarity <= scale, f"not stationary on the support: {stationarity:.3e} > {scale:.3e}"
    violation = (np.abs(gradient) - limit)[~active & allowed].max(initial=0.0)
    assert violation <= scale, f"a column at zero wants in: {violation:.3e} > {scale:.3e}"
    if radius is not None:
        slack = multiplier * (radius - norm)
        assert slack <= tol * max(multiplier, 1.0) * radius, (
            f"multiplier {multiplier:.3e} with slack {radius - norm:.3e}"
        )
