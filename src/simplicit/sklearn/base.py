r"""What the estimators have in common: checked data, scikit-learn's scaling, fitted attributes, prediction.

For each target y, with sample weights s that are 1 when left out and S their sum, all of them solve

    min over w, b of  1/(2S) Σᵢ sᵢ(yᵢ − xᵢᵀw − b)² + α ρ‖w‖₁ + ½ α (1 − ρ)‖w‖²   subject to  ‖w_J‖₁ ≤ κ,

where ρ is ``l1_ratio`` and only some of the parts are there. In terms of :func:`simplicit.solve_rows` that is
λ = 1/(2S) with the strengths β = αρ and ½α(1 − ρ).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from simplicit.checks import check_flag
from simplicit.rows import Ball, ElasticNet, Penalty, Solution
from simplicit.rows.batch import Array
from simplicit.rows.gram import as_sample_weight
from simplicit.solve import beta_max, solve_path


@dataclass(frozen=True, eq=False)
class Fold:
    """Samples X (m, d), targets (m, r) and sample weights (m,) or None, as they are solved; intercept or not."""

    X: Any
    targets: Array
    sample_weight: Array | None
    intercept: bool
    tol: float
    executor: str

    @property
    def options(self) -> dict[str, Any]:
        """The data beside X and the targets, as :func:`simplicit.solve_rows` takes them, with scikit-learn's λ."""
        s = self.sample_weight
        return {
            "weight": 0.5 / (len(self.targets) if s is None else float(s.sum())),
            "intercept": self.intercept,
            "sample_weight": s,
        }

    def taken(self, rows: Any) -> Fold:
        """Some of the samples."""
        s = None if self.sample_weight is None else self.sample_weight[rows]
        return Fold(self.X[rows], self.targets[rows], s, self.intercept, self.tol, self.executor)

    def path(self, penalties: Sequence[Penalty] | Penalty, ball: Any = None) -> list[Solution]:
        """The solutions along a path; a :class:`ConvergenceWarning` tells of rows that did not converge."""
        options = self.options | {"tol": self.tol, "executor": self.executor, "throw": False}
        found = solve_path(self.X, self.targets, penalties, ball=ball, **options)
        for solution in found:
            failed = np.flatnonzero(~solution.converged)
            if len(failed):
                worst = float(solution.relative_gap[failed].max())
                what = f"{len(failed)} of {len(solution.status)} targets did not reach tol={self.tol:g}"
                advice = solution.advice(int(failed[0]))
                text = f"{what}, the worst has a relative gap of {worst:.1e}: {advice}"
                warnings.warn(text, ConvergenceWarning, stacklevel=3)
        return found

    def strongest(self) -> Array:
        """The least α of every target at which its lasso is zero, (r,)."""
        return np.asarray(beta_max(self.X, self.targets, **self.options))


def penalty(alpha: float | Array, l1_ratio: float | Array) -> Penalty:
    """α and ρ as a penalty of :func:`simplicit.solve_rows`."""
    return ElasticNet(beta=np.asarray(alpha) * l1_ratio, alpha=np.asarray(alpha) * (0.5 * (1 - l1_ratio)))


class Regressor(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fits w and b of every target, by ``_solution`` of a subclass."""

    fit_intercept: bool
    tol: float
    sparse_coef: bool
    executor: str

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Fold, bool]:
        """The data, and whether there is one target alone (m,)."""
        check_flag("fit_intercept", self.fit_intercept)
        check_flag("sparse_coef", self.sparse_coef)
        types = [np.float64, np.float32]
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=types, multi_output=True, y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        s = None if sample_weight is None else as_sample_weight(sample_weight, len(y))
        one = y.ndim == 1
        targets = y[:, None] if one else y
        return Fold(X, targets, s, self.fit_intercept, self.tol, self.executor), one

    def _keep(self, solution: Solution, one: bool) -> Self:
        """Set what is known after a fit; arrays have one line per target, but for a single target (m,)."""
        coefficients = csr_matrix(solution.coefficients)
        dense = None if self.sparse_coef else coefficients.toarray()
        self.coef_ = coefficients if dense is None else dense[0] if one else dense
        kept = (("intercept_", solution.intercepts), ("dual_gap_", solution.dual_gap))
        for name, values in kept:
            setattr(self, name, float(values[0]) if one else values)
        self.n_iter_ = 1 if one else [1] * len(solution.status)
        self._one = one
        return self

    @property
    def sparse_coef_(self) -> Any:
        """The coefficients as a sparse matrix, (1, d) or (r, d)."""
        check_is_fitted(self)
        return self.coef_ if issparse(self.coef_) else csr_matrix(np.atleast_2d(self.coef_))

    def predict(self, X: Any) -> Array:
        """Return Xw + b, (m,) or (m, r), for samples X (m, d), dense or sparse.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before a fit.
        ValueError
            If X does not fit the one of the fit, in its columns or their names.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        image = X @ (self.coef_.T if issparse(self.coef_) or not self._one else self.coef_)
        image = image.toarray() if issparse(image) else np.asarray(image)
        result: Array = (image[:, 0] if self._one and image.ndim == 2 else image) + self.intercept_
        return result


def ball(radius: float | Array, columns: Any) -> Ball:
    """The ball of :class:`BallLasso`, with a list of columns as an index array."""
    return Ball(radius, np.asarray(columns) if isinstance(columns, list | tuple) else columns)
