"""What the row solver asks of a penalty."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["Penalty"]


@runtime_checkable
class Penalty(Protocol):
    """A separable convex penalty Σⱼ hⱼ(wⱼ), even in each coordinate, with hⱼ(0) = 0.

    All methods are batched over rows: ``w``, ``v`` and ``step`` have shape (r, d) and so have the results, unless said.
    """

    def broadcast(self, n_rows: int, n_columns: int) -> Self:
        """The same penalty with its parameters checked and spread over an (n_rows, n_columns) block.

        Raises
        ------
        InputError
            If a parameter has a shape that does not fit, or a value outside its range.
        """
        ...

    def select(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Self:
        """The penalty of a subset of the rows and columns of a block (after :meth:`broadcast`)."""
        ...

    def in_units(self, strength: float, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Self:
        """strength·σᵢ²·h(cⱼ wᵢⱼ/σᵢ), after :meth:`broadcast`: h as it reads when the target of row i is measured in
        units of σᵢ and feature j in units of cⱼ, in terms of the coefficients of the plain problem.

        Parameters
        ----------
        strength : float
            A common factor > 0.
        rows : (r,) array
            σ > 0.
        columns : (d,) array
            c > 0.
        """
        ...

    def value(self, w: Tensor) -> Tensor:
        """Σⱼ hⱼ(wⱼ), shape (r,)."""
        ...

    def kink(self) -> Tensor:
        """The slope hⱼ'(0+) ≥ 0: column j stays out of a row as long as its gradient is at most this."""
        ...

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        """The minimiser w of ½(w − v)² + step·h(w), per coordinate."""
        ...

    def conjugate(self, v: Tensor) -> Tensor:
        """h*(v) per coordinate: sup over w of v·w − h(w); infinite outside the domain."""
        ...

    def dual_scale(self, v: Tensor) -> Tensor:
        """The largest t in [0, 1] with h*(t·v) finite, shape (r, 1)."""
        ...
