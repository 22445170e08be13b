"""The ℓ1 ball ‖w_J‖₁ ≤ κ bounds some of the columns; it is weighted where these are measured in other units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_positive_array, one_line, refused
from simplicit.rows.batch import Array, Index, Mask


@dataclass(frozen=True, eq=False)
class Ball:
    """The constraint ‖w_J‖₁ ≤ κ of (2d) holds for every row.

    Parameters
    ----------
    radius : float or array of shape (r,)
        κ > 0; one for all rows or one per row.
    columns : slice, index array or boolean mask of shape (d,), optional
        J. All columns when left out (the ACML 2024 variant); SIM takes the state columns, ``slice(0, n)``.
    """

    radius: float | Array
    columns: slice | Index | Mask | None = None

    __repr__ = one_line

    def mask(self, n_columns: int) -> Mask:
        """Return J as a mask (n_columns,); InputError if the columns are no index, do not fit, or are none."""
        mask = np.zeros(n_columns, dtype=bool)
        columns = slice(None) if self.columns is None else self.columns
        if not isinstance(columns, slice) and np.asarray(columns).dtype.kind not in "biu":
            raise refused("ball", f"columns must be a slice, indices or a boolean mask, got {columns!r}")
        try:
            mask[columns] = True
        except (IndexError, TypeError, ValueError) as error:
            raise refused("ball", f"columns do not index the {n_columns} columns of features ({error})") from None
        if not mask.any():
            raise refused("ball", f"columns {columns!r} choose none of the {n_columns} columns; leave the ball out")
        return mask

    def radii(self, n_rows: int) -> Array:
        """Return κ of each row, (n_rows,); InputError if it is not finite and above 0, or its shape does not fit."""
        radius = as_positive_array("radius", self.radius, [(n_rows,)])
        return np.array(np.broadcast_to(radius, (n_rows,)))


def project_into_ball(w: Tensor, weights: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest point to ``w`` with Σⱼ aⱼ|wⱼ| ≤ κ, row by row, up to rounding.

    It is sign(w)(|w| − μa)₊ with the least μ ≥ 0 that is feasible, the root of a convex, decreasing, piecewise linear
    function: Newton's method climbs to it from μ = 0 in finitely many steps and without sorting. The shapes are (r, j)
    for w, (1, j) for a > 0 and (r, 1) for κ > 0.
    """
    size, mu = w.abs(), torch.zeros_like(radius)
    # Each step but the last removes at least one coordinate from the support of some row.
    for _ in range(w.shape[1] + 1):
        left = size - mu * weights
        excess = (weights * left.clamp(min=0)).sum(1, keepdim=True) - radius
        slope = (weights * weights * (left > 0)).sum(1, keepdim=True)
        higher = torch.where(excess > 0, mu + excess / slope, mu)
        # An excess that no longer moves μ is rounding.
        if not bool((higher > mu * (1 + 1e-15)).any()):
            break
        mu = higher
    return (size - mu * weights).clamp(min=0).copysign(w)


def shrink_into_ball(w: Array, radius: float, weights: Array | float = 1.0) -> Array:
    """Scale ``w`` (j,) down, where it must be, until Σ aⱼ|wⱼ| ≤ radius holds in whatever order the sum is taken."""
    if not w.any():
        return w
    norm = math.fsum(np.abs(w) * weights)
    bound = radius * (1 - (np.count_nonzero(w) + 2) * np.finfo(np.float64).eps)
    return w if norm <= bound else w * (bound / norm)
