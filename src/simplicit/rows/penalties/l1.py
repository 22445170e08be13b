"""The weighted ℓ1 norm, h(w) = β·c·|w|: equation (11), the objective for robustness and sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.errors import InputError

__all__ = ["L1"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
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
    >>> import numpy as np
    >>> import simplicit as sp
    >>> sp.L1(beta=1e-3)
    L1(beta=0.001, column_weights=None)
    """

    beta: float | Array = 1e-3
    column_weights: Array | None = None

    def restricted(self, n_rows: int, n_columns: int) -> L1:
        beta = np.asarray(self.beta, dtype=np.float64)
        if beta.shape not in ((), (n_rows,), (n_rows, 1)):
            raise InputError(
                f"penalty: beta has shape {beta.shape}; give one number, or one per row as ({n_rows},) for the "
                f"{n_rows} rows"
            )
        if not (np.isfinite(beta) & (beta > 0)).all():
            worst = float(beta.ravel()[int(np.argmin(np.where(np.isfinite(beta), beta, -np.inf)))])
            raise InputError(f"penalty: beta must be finite and > 0, got {worst:g}")
        weights = np.ones(()) if self.column_weights is None else np.asarray(self.column_weights, dtype=np.float64)
        if weights.shape not in ((), (n_columns,), (n_rows, n_columns)):
            raise InputError(
                f"penalty: column_weights has shape {weights.shape}; give ({n_columns},) or ({n_rows}, {n_columns})"
            )
        if not (np.isfinite(weights) & (weights > 0)).all():
            raise InputError("penalty: column_weights must all be finite and > 0")
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
            raise InputError("penalty: spread the parameters with restricted(n_rows, n_columns) first")
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
