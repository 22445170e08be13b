"""This is what a penalty is, as the user writes it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from simplicit.rows.penalties.piecewise import PiecewiseQuadratic


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
        ...
