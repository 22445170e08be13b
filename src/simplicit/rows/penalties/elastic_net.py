"""The elastic net is h(w) = c·(β|w| + αw²)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from simplicit.checks import one_line
from simplicit.rows.batch import Array
from simplicit.rows.penalties.piecewise import PiecewiseQuadratic, per_column, per_row


@dataclass(frozen=True, eq=False)
class ElasticNet:
    """The elastic net is h(wⱼ) = cⱼ (β |wⱼ| + α wⱼ²) (Zou and Hastie 2005).

    Its conjugate, for c = 1, is ((|v| − β)₊)²/(4α). With α > 0 the solution is unique, also among equal columns, which
    share their weight; ``beta=0`` is ridge regression.

    Parameters
    ----------
    beta : float or array of shape (r,)
        Strength of the ℓ1 norm, at least 0; one for all rows or one per row.
    alpha : float or array of shape (r,)
        Strength of the squares, at least 0; one for all rows or one per row.
    column_weights : array of shape (d,) or (r, d), optional
        Factors c ≥ 0 on h, column by column, which are all 1 when left out.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.ElasticNet(beta=1e-3, alpha=1e-2)
    ElasticNet(beta=0.001, alpha=0.01)
    """

    beta: float | Array = 1e-3
    alpha: float | Array = 1e-3
    column_weights: Array | None = field(default=None, repr=False)

    __repr__ = one_line

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        weights = per_column(self.column_weights, n_rows, n_columns)
        beta, alpha = per_row("beta", self.beta, n_rows), per_row("alpha", self.alpha, n_rows)
        return PiecewiseQuadratic(weights * beta, 2 * weights * alpha, torch.zeros(1, 1, dtype=torch.float64))
