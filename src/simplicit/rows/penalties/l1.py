"""The weighted ℓ1 norm, h(w) = β·c·|w|: equation (11), the objective for robustness and sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_positive_array
from simplicit.errors import InputError

__all__ = ["L1"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class L1:
    """ℓ1 penalty: h(wⱼ) = β cⱼ |wⱼ|, equation (11) of the paper.

    Its proximal map is soft thresholding, its conjugate is 0 where |vⱼ| ≤ β cⱼ and infinite elsewhere.

    Parameters
    ----------
    beta : float or array of shape (r,)
        Strength, > 0, in units of the objective per unit of a coefficient; one for all rows or one per row.
    column_weights : array of shape (d,) or (r, d), optional
        Factors c > 0 on the columns; all 1 when left out. Re-weighted rounds set them per row.

    Examples
    --------
    >>> import simplicit as sp
    >>> sp.L1(beta=1e-3)
    L1(beta=0.001)
    """

    beta: float | Array = 1e-3
    column_weights: Array | None = field(default=None, repr=False)

    def broadcast(self, n_rows: int, n_columns: int) -> L1:
        beta = as_positive_array("penalty: beta", self.beta, [(n_rows,), (n_rows, 1)])
        shapes = [(n_columns,), (n_rows, n_columns)]
        weights = as_positive_array(
            "penalty: column_weights", 1.0 if self.column_weights is None else self.column_weights, shapes
        )
        strengths = np.array(np.broadcast_to(beta.reshape(-1, 1) * weights, (n_rows, n_columns)))
        return replace(self, beta=1.0, column_weights=strengths)

    def select(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> L1:
        return replace(self, column_weights=self.kink().numpy()[np.ix_(rows, columns)])

    def in_units(self, strength: float, rows: Array, columns: Array) -> L1:
        return replace(self, column_weights=strength * self.kink().numpy() * np.outer(rows, columns))

    def value(self, w: Tensor) -> Tensor:
        return (self.kink() * w.abs()).sum(1)

    def kink(self) -> Tensor:
        if self.column_weights is None or self.column_weights.ndim != 2:
            raise InputError("penalty: spread the parameters with broadcast(n_rows, n_columns) first")
        return torch.from_numpy(self.column_weights)

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        return torch.nn.functional.relu(v.abs() - step * self.kink()).copysign(v)

    def conjugate(self, v: Tensor) -> Tensor:
        # A relative allowance of a few roundings: points scaled onto the boundary by dual_scale count as inside.
        return torch.where(v.abs() <= self.kink() * (1 + 1e-12), 0.0, torch.inf).to(v.dtype)

    def dual_scale(self, v: Tensor) -> Tensor:
        if v.shape[1] == 0:
            return v.new_ones(v.shape[0], 1)
        excess = (v.abs() / self.kink()).amax(1, keepdim=True)
        return excess.clamp(min=1.0).reciprocal()
