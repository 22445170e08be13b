r"""The perspective penalty relaxes γ‖w‖₀ + α‖w‖²: equation (10), with its indicator priced."""

from __future__ import annotations

from dataclasses import dataclass, field

from simplicit.checks import one_line
from simplicit.rows.batch import Array
from simplicit.rows.penalties.piecewise import PiecewiseQuadratic, per_column, per_row


@dataclass(frozen=True, eq=False)
class Perspective:
    r"""The perspective penalty is the tightest convex one below γ[w ≠ 0] + αw² (reverse Huber).

        h(w) = min over s, t of αs + γt,  w² ≤ st, 0 ≤ t ≤ 1
             = 2√(αγ)|w|  for |w| ≤ √(γ/α),   αw² + γ  beyond
        h*(v) = 0  for |v| ≤ 2√(αγ),   v²/(4α) − γ  beyond

    With ``gamma=0`` it is equation (10) of the paper to the letter: t is free there, which leaves h = αw², ridge
    regression, whose solutions have no zeros and need pruning by size. A price γ > 0 on t makes them sparse.

    Every row's solution comes with ``Solution.cardinality_gap``: a bound on how much better any other choice of
    non-zeros could be in the objective with the true γ‖w‖₀.

    Parameters
    ----------
    alpha : float or array of shape (r,)
        Price of a square, above 0; one for all rows or one per row.
    gamma : float or array of shape (r,)
        Price of a non-zero, at least 0; one for all rows or one per row.
    column_weights : array of shape (d,) or (r, d), optional
        Factors ≥ 0 on h, column by column, which are all 1 when left out.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.Perspective(alpha=1e-2, gamma=1e-4)
    Perspective(alpha=0.01, gamma=0.0001)
    """

    alpha: float | Array = 1e-3
    gamma: float | Array = 1e-3
    column_weights: Array | None = field(default=None, repr=False)

    __repr__ = one_line

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        weights = per_column(self.column_weights, n_rows, n_columns)
        alpha, gamma = per_row("alpha", self.alpha, n_rows, positive=True), per_row("gamma", self.gamma, n_rows)
        return PiecewiseQuadratic(
            kink=2 * weights * alpha.sqrt() * gamma.sqrt(),
            curvature=2 * weights * alpha,
            threshold=gamma.sqrt() / alpha.sqrt(),
            cardinality=True,
        )
