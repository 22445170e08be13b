r"""The one form that every penalty takes in the solver: ℓ1 plus a quadratic beyond a threshold.

    h(w) = p|w| + ½c((|w| − τ)₊)²,     p, c, τ ≥ 0,   per coordinate

    prox of t·h     with a = (|v| − tp)₊:  sign(v)·(a − tc/(1 + tc)·(a − τ)₊)
    conjugate       with e = (|v| − p)₊:   eτ + e²/(2c);   for c = 0:  0 where e = 0, else ∞
    polish          h'(w) = sign(w)·(p + c(|w| − τ)₊),  h''(w) = c where |w| > τ, else 0

L1 has c = 0, ElasticNet τ = 0, Perspective p = cτ, and no penalty p = c = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_positive_array
from simplicit.errors import InputError

__all__ = ["PiecewiseQuadratic", "spread_parameter", "spread_weights"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Share of the kink by which |v| may exceed it and still count as inside the domain of h*: a few roundings.
ALLOWANCE = 1e-12


@dataclass(frozen=True, eq=False)
class PiecewiseQuadratic:
    """Penalties p|w| + ½c((|w| − τ)₊)² of a block of r rows and d columns.

    All three are tensors that broadcast to (r, d): what is common to all rows or columns is stored once. All methods
    are batched over rows; ``w``, ``v`` and ``step`` are tensors that broadcast to (r, d), of the same dtype.

    Parameters
    ----------
    kink : tensor
        p, the slope at 0+: a column stays at zero as long as its gradient is at most this.
    curvature : tensor
        c.
    threshold : tensor
        τ.
    equality : bool
        Whether z = Φw must hold exactly, as for ``BasisPursuit``; the weight λ has no meaning then.
    cardinality : bool
        Whether p = cτ, so that h is the convex envelope of ½cw² + ½cτ²[w ≠ 0] (``Perspective``).
    """

    kink: Tensor
    curvature: Tensor
    threshold: Tensor
    equality: bool = False
    cardinality: bool = False

    def spread(self, n_rows: int, n_columns: int) -> Self:
        """Itself, so that it can stand wherever a penalty is asked for."""
        for name in ("kink", "curvature", "threshold"):
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 2 or shape[0] not in (1, n_rows) or shape[1] not in (1, n_columns):
                raise InputError(f"penalty: {name} of shape {shape} does not fit {n_rows} rows x {n_columns} columns")
        return self

    def select(self, rows: Index, columns: Index) -> Self:
        """The penalty of a subset of the rows and columns."""

        def chosen(a: Tensor) -> Tensor:
            a = a if a.shape[0] == 1 else a[torch.from_numpy(rows)]
            return a if a.shape[1] == 1 else a[:, torch.from_numpy(columns)]

        return self._map(chosen)

    def in_units(self, strength: float, rows: Array, columns: Array) -> Self:
        """strength·σᵢ²·h(cⱼwᵢⱼ/σᵢ): h as it reads when the target of row i is measured in units of σᵢ and feature j in
        units of cⱼ, in terms of the coefficients of the plain problem.

        Parameters
        ----------
        strength : float
            A common factor > 0.
        rows : (r,) array
            σ > 0.
        columns : (d,) array
            c > 0.
        """
        return self.scaled(strength * torch.from_numpy(rows**2)[:, None], _ratio(columns, rows))

    def scaled(self, factor: Tensor | float, unit: Tensor | float) -> Self:
        """factor·h(unit·w) as a function of w; both > 0 and broadcastable to (r, d)."""
        kink = self.kink * unit * factor
        if self.only_kinks:
            return replace(self, kink=kink)
        curvature, threshold = self.curvature * unit * unit * factor, self.threshold / unit
        return replace(self, kink=kink, curvature=curvature, threshold=threshold)

    def to(self, like: Tensor) -> Self:
        """In the dtype and on the device of ``like``."""
        return self._map(lambda a: a.to(device=like.device, dtype=like.dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, kink=change(self.kink), curvature=change(self.curvature), threshold=change(self.threshold))

    @cached_property
    def only_kinks(self) -> bool:
        """Whether c = 0 throughout, a weighted ℓ1 norm."""
        return not bool(self.curvature.any())

    def terms(self, w: Tensor) -> Tensor:
        """hⱼ(wⱼ) per coordinate."""
        size = w.abs()
        if self.only_kinks:
            return self.kink * size
        beyond = (size - self.threshold).clamp(min=0)
        return self.kink * size + 0.5 * self.curvature * beyond * beyond

    def value(self, w: Tensor) -> Tensor:
        """Σⱼ hⱼ(wⱼ), shape (r,)."""
        return self.terms(w).sum(1)

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        """The minimiser w of ½(w − v)² + step·h(w), per coordinate."""
        return self.shrink(v.abs() - step * self.kink, step).copysign(v)

    def shrink(self, magnitude: Tensor, step: Tensor) -> Tensor:
        """|prox| from the magnitude a = |v| − step·p that the kink leaves; negative a gives 0."""
        inside = magnitude.clamp(min=0)
        if self.only_kinks:
            return inside
        bend = step * self.curvature
        return inside - bend / (1 + bend) * (inside - self.threshold).clamp(min=0)

    def conjugate(self, v: Tensor) -> Tensor:
        """h*(v) = sup over w of v·w − h(w), per coordinate; infinite outside the domain."""
        excess = (v.abs() - self.kink).clamp(min=0)
        outside = torch.where(excess <= ALLOWANCE * self.kink, 0.0, torch.inf).to(v.dtype)
        if self.only_kinks:
            return outside
        bent = excess * self.threshold + excess * excess / (2 * self.curvature)
        return torch.where(self.curvature > 0, bent, outside)

    def cardinality_excess(self, w: Tensor) -> Tensor:
        """Σ over wⱼ ≠ 0 of ½cw² + ½cτ² − h(w): what the true price of the non-zeros adds to the relaxed one; (r,)."""
        short = (self.threshold - w.abs()).clamp(min=0)
        return (0.5 * self.curvature * short * short * (w != 0)).sum(1)

    def domain_excess(self, v: Tensor, *, strict: bool = False) -> Tensor:
        """By how many times v is outside the domain of h*, or with ``strict`` beyond the kink; 1 inside; (r, d)."""
        size = v.abs()
        over = torch.where(size > self.kink, size / self.kink, 1.0)
        return over if strict or self.only_kinks else torch.where(self.curvature > 0, 1.0, over)


def _ratio(columns: Array, rows: Array) -> Tensor:
    return torch.from_numpy(columns)[None, :] / torch.from_numpy(rows)[:, None]


def spread_parameter(name: str, value: float | Array, n_rows: int, *, positive: bool = False) -> Tensor:
    """A strength, one for all rows or one per row, ≥ 0 or with ``positive`` > 0, as a tensor (1, 1) or (r, 1).

    Raises
    ------
    InputError
        If it is out of range, not finite, or of another shape.
    """
    array = as_positive_array(f"penalty: {name}", value, [(n_rows,), (n_rows, 1)], or_zero=not positive)
    return torch.from_numpy(array.reshape(-1, 1))


def spread_weights(weights: Array | None, n_rows: int, n_columns: int) -> Tensor:
    """Factors ≥ 0 on h, column by column, (d,) or (r, d), as a tensor (1, 1), (1, d) or (r, d)."""
    if weights is None:
        return torch.ones(1, 1, dtype=torch.float64)
    shapes = [(n_columns,), (n_rows, n_columns)]
    array = as_positive_array("penalty: column_weights", weights, shapes, or_zero=True)
    return torch.from_numpy(array if array.ndim == 2 else array.reshape(1, -1))
