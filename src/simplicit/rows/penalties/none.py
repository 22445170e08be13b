"""Without a penalty a row is least squares under the ball and on the support."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from simplicit.rows.penalties.piecewise import PiecewiseQuadratic


@dataclass(frozen=True)
class NoPenalty:
    """With h = 0 a row is least squares, under the ball and on the support where they are given.

    With ``support=solution.coefficients != 0`` it is the refit of a sparse solution on its own non-zeros.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.NoPenalty()
    NoPenalty()
    """

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        nothing = torch.zeros(1, 1, dtype=torch.float64)
        return PiecewiseQuadratic(nothing, nothing, nothing)
