"""scikit-learn 1.9.1, LARS with the lasso modification (what ``LassoLars`` runs), stopped at the strength. No ball.

What was tried, on rows of the family with 500 samples (seconds per row for λ = .1, β = .001, one core): with the Gram
matrix of all rows 1.1, without 0.65 (taken). The method is exact up to rounding, so it has no tolerance; gaps were
1e-13 to 8e-7.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.linear_model import lars_path

from peers.common import Array, Rows, RowSolver, by_two_processes


def prepare(rows: Rows) -> RowSolver:
    def solve_row(target: Array) -> Array:
        _, _, coefficients = lars_path(
            rows.features,
            target,
            Gram=None,
            max_iter=100_000,
            alpha_min=rows.alpha,
            method="lasso",
            copy_X=True,  # it permutes the columns in place
            return_path=False,
        )
        return np.asarray(coefficients)

    return solve_row


def solve(rows: Rows, deadline: float) -> Iterator[tuple[list[int], Array]]:
    return by_two_processes(prepare, rows, deadline)
