r"""What the rows of a layer are fitted to, and the least-squares problem of their supports and values.

A provider of layers (:mod:`~simplicit.training.states`, :mod:`~simplicit.training.channels`) gives :class:`Rows`: rows
that share their columns, known by samples or by sums over samples. The support of a row, and its values on it, are
those of ridge towards the baseline's own weights,

    min over w   ‖z − Φw‖² + δ Σⱼ (wⱼ − a·w⁰ⱼ)²        w zero off the support, and in the ball where there is one

w⁰ are the baseline's weights, a in [0, 1] is the *anchor* and δ the *ridge* in units of the mean of ‖Φⱼ‖². Few samples
say little about most directions of the input. An anchor of 1 keeps the baseline there: it is what least squares on
inputs with noise of variance δ/m would do, if the baseline's answer to the noisy input is wanted. An anchor of 0 wants
the answer to the clean one: the noise, and with it any small change of the input, is to be ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from simplicit.checks import LARGEST, as_number
from simplicit.errors import InputError
from simplicit.rows import Ball, Gram, Penalty, PiecewiseQuadratic
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.factor import LowRank
from simplicit.training.support.pattern import Groups
from simplicit.training.units import Scales

#: The least ridge, in the same units: it keeps every support's Gram matrix positive definite in float64.
LEAST_RIDGE = 1e-10
#: The least ridge of sums that are less exact, in units of ε·d, which is what rounding may take from an eigenvalue.
ROUNDINGS = 4
#: With more the weights are the anchor's, and digits are lost.
MOST_RIDGE = 1e12


@dataclass(frozen=True)
class Ridge:
    """What least squares are drawn to, and how strongly.

    Parameters
    ----------
    ridge : float
        Strength δ, in units of the mean of ‖Φⱼ‖² over the admissible columns, from 0 to 1e12.
    anchor : float
        Share a of the baseline's weights that they are drawn to, from 0 to 1.

    Raises
    ------
    InputError
        A number is out of range.
    """

    ridge: float = 1e-3
    anchor: float = 0.0

    def __post_init__(self) -> None:
        if as_number("ridge", self.ridge) > MOST_RIDGE:
            raise InputError(f"ridge must be at most {MOST_RIDGE:g}, got {self.ridge!r}", argument="ridge")
        if as_number("anchor", self.anchor) > 1:
            raise InputError(f"anchor must lie between 0 and 1, got {self.anchor!r}", argument="anchor")


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over ``count`` samples or patches, less the means of features and targets where rows have a free constant.

    ``gram`` (d, d) is ΦᵀΦ, ``cross`` (r, d) Φᵀz, ``energy`` (r,) ‖z‖², and ``rounding`` ε of the products summed.
    """

    gram: Array
    cross: Array
    energy: Array
    count: int
    rounding: float = float(np.finfo(np.float64).eps)

    @property
    def statistics(self) -> Gram:
        """The sums as :func:`simplicit.solve_rows` takes them."""
        return Gram.of_products(self.gram, self.cross, self.energy, self.count)

    @property
    def arguments(self) -> dict[str, Any]:
        """The problem as :func:`simplicit.solve_rows` takes it."""
        return {"features": self.statistics}

    @property
    def sums(self) -> Sums:
        return self

    def constants(self, coefficients: Array) -> Array:
        """No constants: a provider that gives sums knows the means, and sees to them itself."""
        return np.zeros(coefficients.shape[0])


@dataclass(frozen=True, eq=False)
class Samples:
    """Features (m, d) and targets (m, r) one by one; ``intercept`` says whether rows have a free constant."""

    features: Array
    targets: Array
    intercept: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """The problem as :func:`simplicit.solve_rows` takes it.

        Columns whose squares are no float64 any more are zero there: a unit that is off on all samples has one.
        """
        sizes = np.abs(self.features).max(axis=0, initial=0.0)
        gone = (sizes > 0.0) & (sizes < 1.0 / LARGEST)
        features = np.where(gone, 0.0, self.features) if gone.any() else self.features
        return {"features": features, "targets": self.targets, "intercept": self.intercept}

    @cached_property
    def _means(self) -> tuple[Array, Array]:
        if not self.intercept:
            return np.zeros(self.features.shape[1]), np.zeros(self.targets.shape[1])
        return self.features.mean(axis=0), self.targets.mean(axis=0)

    @cached_property
    def sums(self) -> Sums:
        features, targets = self.features - self._means[0], self.targets - self._means[1]
        return Sums(features.T @ features, targets.T @ features, np.square(targets).sum(axis=0), len(features))

    def constants(self, coefficients: Array) -> Array:
        """The constants (r,) that go with coefficients (r, d) of centred least squares."""
        return np.asarray(self._means[1] - coefficients @ self._means[0])


#: What rows are fitted to.
RowData = Samples | Sums


@dataclass(frozen=True, eq=False)
class Rows:
    """r rows of a layer that share their d columns.

    ``weight`` is λ, ``support`` (r, d) says which coefficients are admissible, and ``weights`` (r, d) are w⁰, those of
    the baseline. ``scales`` are for the units of a penalty, and ``pieces`` says what a penalty is on these rows and
    columns. Rows are ``settled`` where the student is the baseline still, so that what was found there holds. Under a
    pattern their columns are in ``groups``.
    """

    data: RowData
    weight: float
    support: Mask
    weights: Array
    scales: Scales
    pieces: Callable[[Penalty], PiecewiseQuadratic]
    ball: Ball | None = None
    settled: bool = False
    groups: Groups | None = None

    def least_squares(self, ridge: Ridge) -> LeastSquares:
        return LeastSquares.of(self.data.sums, self.weights, self.support, ridge, self.groups)


@dataclass(frozen=True, eq=False, kw_only=True)
class LeastSquares(Sums):
    """Sums with a ridge in them: the error of a row at w is wᵀHw − 2cᵀw + energy.

    ``gram`` is H = ΦᵀΦ + δI, which is positive definite, ``cross`` c = Φᵀz + δa·w⁰, and ``energy`` ‖z‖² + δ‖a·w⁰‖².
    ``support``, ``weights`` and ``groups`` are those of :class:`Rows`, and ``ridge`` is δ (0: unknown).
    """

    support: Mask
    weights: Array
    ridge: float = 0.0
    groups: Groups | None = None

    @cached_property
    def low_rank(self) -> LowRank | None:
        """H by a factor of few rows, where samples are so few that this pays."""
        return LowRank.of(self.gram, self.ridge, self.count)

    def low_rank_for(self, columns: int) -> LowRank | None:
        """The same if it pays for what is done on so many columns."""
        return self.low_rank if self.low_rank is not None and self.low_rank.pays(columns) else None

    @classmethod
    def of(cls, sums: Sums, weights: Array, support: Mask, ridge: Ridge, groups: Groups | None = None) -> Self:
        """Ridge on sums, with at least the δ that makes the Gram matrix of every support positive definite."""
        squares = sums.gram.diagonal()[support.any(axis=0)]
        least = max(LEAST_RIDGE, ROUNDINGS * sums.rounding * len(sums.gram))
        delta = max(ridge.ridge, least) * ((float(squares.mean()) if len(squares) else 0.0) or 1.0)
        towards = ridge.anchor * weights
        H = sums.gram.copy()
        H[np.diag_indices_from(H)] += delta
        return cls(
            H,
            sums.cross + delta * towards,
            sums.energy + delta * np.square(towards).sum(axis=1),
            sums.count,
            sums.rounding,
            support=support,
            weights=weights,
            ridge=delta,
            groups=groups,
        )

    def minimiser(self) -> Array:
        """The least of every row on its support, (r, d), with one factorisation for all rows of the same."""
        found = np.zeros_like(self.cross)
        supports, kind = np.unique(self.support, axis=0, return_inverse=True)
        for number, support in enumerate(supports):
            rows = np.flatnonzero(kind.ravel() == number)
            H = self.gram[np.ix_(support, support)]
            if len(H):
                found[np.ix_(rows, support)] = cho_solve(cho_factor(H), self.cross[np.ix_(rows, support)].T).T
        return found

    def of_rows(self, rows: Index) -> LeastSquares:
        """The problems of some rows."""
        if len(rows) == len(self.cross):
            return self
        own = {name: getattr(self, name)[rows] for name in ("cross", "energy", "support", "weights")}
        return replace(self, groups=None if self.groups is None else self.groups.of_rows(rows), **own)
