"""The weighted ℓ1 norm, h(w) = β·c·|w|, is equation (11), the objective for robustness and sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from simplicit.checks import one_line
from simplicit.rows.batch import Array
from simplicit.rows.penalties.piecewise import PiecewiseQuadratic, per_column, per_row


@dataclass(frozen=True, eq=False)
class L1:
    """The ℓ1 penalty is h(wⱼ) = β cⱼ |wⱼ|, equation (11) of the paper.

    Its proximal map is soft thresholding, its conjugate is 0 where |vⱼ| ≤ β cⱼ and infinite elsewhere.

    Parameters
    ----------
    beta : float or array of shape (r,)
        Strength of the ℓ1 norm, at least 0, in units of the objective per unit of a coefficient; one for all rows or
        one per row.
    column_weights : array of shape (d,) or (r, d), optional
        Factors c ≥ 0 on the columns, which are all 1 when left out; 0 leaves a column unpenalised. Re-weighted rounds
        set them per row.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.L1(beta=1e-3)
    L1(beta=0.001)
    """

    beta: float | Array = 1e-3
    column_weights: Array | None = field(default=None, repr=False)

    __repr__ = one_line

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        weights = per_column(self.column_weights, n_rows, n_columns)
        nothing = torch.zeros(1, 1, dtype=torch.float64)
        return PiecewiseQuadratic(weights * per_row("beta", self.beta, n_rows), nothing, nothing)
