r"""The one form that every penalty takes in the solver is ℓ1 plus a quadratic beyond a threshold.

    h(w) = p|w| + ½c((|w| − τ)₊)²,     p, c, τ ≥ 0,   per coordinate

    prox of t·h     with a = (|v| − tp)₊:  sign(v)·(a − tc/(1 + tc)·(a − τ)₊)
    conjugate       with e = (|v| − p)₊:   eτ + e²/(2c);   for c = 0:  0 where e = 0, else ∞
    slopes          h'(w) = sign(w)·(p + c(|w| − τ)₊),  h''(w) = c where |w| > τ, else 0

L1 has c = 0, ElasticNet τ = 0, Perspective p = cτ, and no penalty p = c = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from simplicit.checks import as_positive_array, refused
from simplicit.rows.batch import BROADCAST, Array, Batch

#: Share of the kink by which |v| may exceed it and still count as inside the domain of h*: some thousand roundings,
#: for v is a product that is scaled to the very edge of the domain.
ALLOWANCE = 1e-12


@dataclass(frozen=True, eq=False)
class PiecewiseQuadratic(Batch):
    """A block of r rows and d columns has the penalties p|w| + ½c((|w| − τ)₊)².

    All three parameters are tensors that broadcast to (r, d): what is common to all rows or columns is stored once. All
    methods are batched over rows; ``w``, ``v`` and ``step`` are tensors that broadcast to (r, d), of the same dtype.

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

    kink: Tensor = field(metadata=BROADCAST)
    curvature: Tensor = field(metadata=BROADCAST)
    threshold: Tensor = field(metadata=BROADCAST)
    equality: bool = False
    cardinality: bool = False

    def pieces(self, n_rows: int, n_columns: int) -> Self:
        """Return itself, once its shapes fit, so that it can stand wherever a penalty is asked for.

        Raises
        ------
        InputError
            If one of the tensors does not broadcast to (n_rows, n_columns).
        """
        for name in ("kink", "curvature", "threshold"):
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 2 or shape[0] not in (1, n_rows) or shape[1] not in (1, n_columns):
                raise refused("penalty", f"{name} of shape {shape} does not fit {n_rows} rows x {n_columns} columns")
        return self

    def on_columns(self, columns: Tensor) -> Self:
        """Return the penalty of some of the columns, by an index tensor."""
        return self._map(lambda a: a if a.shape[1] == 1 else a[:, columns])

    def expanded(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return p, c and τ as views of shape (r, d)."""
        return self.kink.expand(shape), self.curvature.expand(shape), self.threshold.expand(shape)

    def in_units(self, strength: float, rows: Array, columns: Array) -> Self:
        """Return strength·σᵢ²·h(cⱼwᵢⱼ/σᵢ), with σ (r,) and c (d,) all > 0.

        That is h as it reads when the target of row i is measured in units of σᵢ and feature j in units of cⱼ, in terms
        of the coefficients of the plain problem.
        """
        unit = torch.from_numpy(columns)[None, :] / torch.from_numpy(rows)[:, None]
        return self.scaled(strength * torch.from_numpy(rows**2)[:, None], unit)

    def scaled(self, factor: Tensor | float, unit: Tensor | float) -> Self:
        """Return factor·h(unit·w) as a function of w; both are > 0 and broadcast to (r, d)."""
        kink = self.kink * unit * factor
        if self.only_kinks:
            return replace(self, kink=kink)
        curvature, threshold = self.curvature * unit * unit * factor, self.threshold / unit
        return replace(self, kink=kink, curvature=curvature, threshold=threshold)

    def to(self, like: Tensor) -> Self:
        """Return the penalty in the dtype and on the device of ``like``."""
        return self._map(lambda a: a.to(device=like.device, dtype=like.dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, kink=change(self.kink), curvature=change(self.curvature), threshold=change(self.threshold))

    @cached_property
    def only_kinks(self) -> bool:
        """Whether c = 0 throughout, so that h is a weighted ℓ1 norm."""
        return not bool(self.curvature.any())

    def terms(self, w: Tensor) -> Tensor:
        """Return hⱼ(wⱼ) per coordinate, (r, d)."""
        size = w.abs()
        if self.only_kinks:
            return self.kink * size
        beyond = (size - self.threshold).clamp(min=0)
        return self.kink * size + 0.5 * self.curvature * beyond * beyond

    def value(self, w: Tensor) -> Tensor:
        """Return Σⱼ hⱼ(wⱼ), (r,)."""
        return self.terms(w).sum(1)

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        """Return the minimiser w of ½(w − v)² + step·h(w), per coordinate."""
        return self.shrink(v.abs() - step * self.kink, step).copysign(v)

    def shrink(self, magnitude: Tensor, step: Tensor) -> Tensor:
        """Return |prox| from the magnitude a = |v| − step·p that the kink leaves; negative a gives 0."""
        inside = magnitude.clamp(min=0)
        if self.only_kinks:
            return inside
        bend = step * self.curvature
        return inside - bend / (1 + bend) * (inside - self.threshold).clamp(min=0)

    def conjugate(self, v: Tensor) -> Tensor:
        """Return h*(v) = sup over w of v·w − h(w), per coordinate; it is infinite outside the domain."""
        excess = (v.abs() - self.kink).clamp(min=0)
        outside = torch.where(excess <= ALLOWANCE * self.kink, 0.0, torch.inf).to(v.dtype)
        if self.only_kinks:
            return outside
        bent = excess * self.threshold + excess * excess / (2 * self.curvature)
        return torch.where(self.curvature > 0, bent, outside)

    def cardinality_excess(self, w: Tensor) -> Tensor:
        """Return what the true price of the non-zeros adds to the relaxed one, (r,).

        It is the sum of ½cw² + ½cτ² − h(w) over wⱼ ≠ 0.
        """
        short = (self.threshold - w.abs()).clamp(min=0)
        return (0.5 * self.curvature * short * short * (w != 0)).sum(1)

    def domain_excess(self, v: Tensor, *, strict: bool = False) -> Tensor:
        """Return how many times v is outside the domain of h*, or with ``strict`` beyond the kink; 1 inside; (r, d)."""
        size = v.abs()
        over = torch.where(size > self.kink, size / self.kink, 1.0)
        return over if strict or self.only_kinks else torch.where(self.curvature > 0, 1.0, over)


@runtime_checkable
class Penalty(Protocol):
    """A penalty is separable and convex, Σⱼ hⱼ(wⱼ), even in each coordinate, with hⱼ(0) = 0.

    All that the solver needs of it, h, prox, conjugate and slopes, follows from its :class:`PiecewiseQuadratic` form,
    so that a new penalty is one class with this one method. A penalty that is registered in ``PENALTIES``, and so on
    the command line, is a frozen dataclass besides, whose fields its docstring describes.
    """

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        """Return the penalty on an (n_rows, n_columns) block, with its parameters checked.

        Raises
        ------
        InputError
            If a parameter has a shape that does not fit, or a value outside its range.
        """


def per_row(name: str, value: float | Array, n_rows: int, *, positive: bool = False) -> Tensor:
    """Return a strength, one for all rows or one per row, ≥ 0 or with ``positive`` > 0, as a tensor (1, 1) or (r, 1).

    Raises
    ------
    InputError
        If it is out of range, not finite, or of another shape; the message begins with the name.
    """
    array = as_positive_array(name, value, [(n_rows,), (n_rows, 1)], or_zero=not positive)
    return torch.from_numpy(array.reshape(-1, 1))


def per_column(weights: Array | None, n_rows: int, n_columns: int, name: str = "column_weights") -> Tensor:
    """Return factors ≥ 0 on h, column by column, (d,) or (r, d), as a tensor (1, 1), (1, d) or (r, d).

    Raises
    ------
    InputError
        As of :func:`per_row`.
    """
    if weights is None:
        return torch.ones(1, 1, dtype=torch.float64)
    array = as_positive_array(name, weights, [(n_columns,), (n_rows, n_columns)], or_zero=True)
    return torch.from_numpy(array if array.ndim == 2 else array.reshape(1, -1))
