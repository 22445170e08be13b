"""The ℓ1 ball ‖w_J‖₁ ≤ κ on some of the columns.

The proximal map of h plus the ball needs one multiplier μ ≥ 0 per row. With magnitudes aⱼ = |vⱼ| − stepⱼ·hⱼ'(0+) and
steps tⱼ > 0, the point is wⱼ = (aⱼ − μ tⱼ)₊ and μ is the root of the convex, decreasing, piecewise linear function
Σⱼ (aⱼ − μ tⱼ)₊ − κ. Newton's method from μ = 0 climbs to it from the left, without overshoot, in finitely many steps
and without sorting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_positive_array
from simplicit.errors import InputError

__all__ = ["Ball", "ball_multiplier", "shrink_into_ball"]


@dataclass(frozen=True, eq=False)
class Ball:
    """The constraint ‖w_J‖₁ ≤ κ of (2d), on every row.

    Parameters
    ----------
    radius : float or array of shape (r,)
        κ > 0; one for all rows or one per row.
    columns : slice, index array or boolean mask of shape (d,), optional
        J. All columns when left out (the ACML 2024 variant); SIM takes the state columns, ``slice(0, n)``.
    """

    radius: float | npt.NDArray[np.float64]
    columns: slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_] | None = None

    def mask(self, n_columns: int) -> npt.NDArray[np.bool_]:
        """J as a boolean mask of shape (n_columns,)."""
        mask = np.zeros(n_columns, dtype=bool)
        columns = slice(None) if self.columns is None else self.columns
        if not isinstance(columns, slice) and np.asarray(columns).dtype.kind not in "biu":
            raise InputError(f"ball: columns must be a slice, indices or a boolean mask, got {columns!r}")
        try:
            mask[columns] = True
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(f"ball: columns do not index the {n_columns} columns of features ({error})") from None
        if not mask.any():
            raise InputError(f"ball: columns {columns!r} choose none of the {n_columns} columns; leave the ball out")
        return mask

    def radii(self, n_rows: int) -> npt.NDArray[np.float64]:
        """κ of each row, shape (n_rows,)."""
        radius = as_positive_array("ball: radius", self.radius, [(n_rows,)])
        return np.array(np.broadcast_to(radius, (n_rows,)))


def ball_multiplier(magnitude: Tensor, step: Tensor, radius: Tensor) -> Tensor:
    """The smallest μ ≥ 0 with Σⱼ (magnitudeⱼ − μ·stepⱼ)₊ ≤ radius, row by row.

    Parameters
    ----------
    magnitude : (r, j) tensor
        Signed size of each coordinate after the penalty's own threshold; negative where the coordinate is zero.
    step : (r, j) or (1, j) tensor, > 0
    radius : (r, 1) tensor, > 0

    Returns
    -------
    (r, 1) tensor
    """
    mu = torch.zeros_like(radius)
    # Each step but the last removes at least one coordinate from the active set of some row.
    for _ in range(magnitude.shape[1] + 1):
        left = magnitude - mu * step
        excess = left.clamp(min=0).sum(1, keepdim=True) - radius
        slope = (step * (left > 0)).sum(1, keepdim=True)
        higher = torch.where(excess > 0, mu + excess / slope.clamp(min=torch.finfo(mu.dtype).tiny), mu)
        # An excess that no longer moves μ is rounding.
        if not bool((higher > mu * (1 + 1e-15)).any()):
            break
        mu = higher
    return mu


def shrink_into_ball(w: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.float64]:
    """Scale ``w`` (j,) down, where it must be, until ‖w‖₁ ≤ radius holds in whatever order the sum is taken."""
    if not w.size:
        return w
    norm = math.fsum(np.abs(w))
    bound = radius * (1 - (np.count_nonzero(w) + 2) * np.finfo(np.float64).eps)
    return w if norm <= bound else w * (bound / norm)
