"""Exact matching takes the least ℓ1 norm with z = Φw, equations (8) and (9)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from simplicit.rows.batch import Array
from simplicit.rows.penalties.l1 import L1
from simplicit.rows.penalties.piecewise import PiecewiseQuadratic


@dataclass(frozen=True, eq=False)
class BasisPursuit:
    """Basis pursuit minimises Σ cⱼ|wⱼ| subject to z = Φw, and to the ball where one is given.

    These are equations (8) and (9) of the paper; Chen, Donoho and Saunders (1998). The weight λ has no meaning here. A
    row that no feasible w matches is returned with the status ``INFEASIBLE``, with its least residual as well as it can
    be had.

    Parameters
    ----------
    column_weights : array of shape (d,) or (r, d), optional
        Factors c ≥ 0 on the columns, which are all 1 when left out.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.BasisPursuit()
    BasisPursuit()
    """

    column_weights: Array | None = field(default=None, repr=False)

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        return replace(L1(1.0, self.column_weights).pieces(n_rows, n_columns), equality=True)
