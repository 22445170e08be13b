"""What a penalty is, as the user writes it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from simplicit.rows.penalties.piecewise import PiecewiseQuadratic

__all__ = ["Penalty"]


@runtime_checkable
class Penalty(Protocol):
    """A separable convex penalty Σⱼ hⱼ(wⱼ), even in each coordinate, with hⱼ(0) = 0.

    All that the solver needs of it, h, prox, conjugate and the pieces of the polish, follows from its
    :class:`PiecewiseQuadratic` form, so that a new penalty is one class with this one method.
    """

    def spread(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        """The penalty with its parameters checked and laid over an (n_rows, n_columns) block.

        Raises
        ------
        InputError
            If a parameter has a shape that does not fit, or a value outside its range.
        """
        ...
