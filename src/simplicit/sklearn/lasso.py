"""Estimators of a given strength: ``Lasso``, ``ElasticNet`` and ``BallLasso``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from simplicit.checks import as_number, refused
from simplicit.rows import L1
from simplicit.sklearn.base import Regressor, ball, penalty


class Lasso(Regressor):
    r"""The lasso of every target, min 1/(2m)‖y − Xw − b‖² + α‖w‖₁, with a duality gap for each.

    Parameters
    ----------
    alpha : float
        α ≥ 0.
    fit_intercept : bool
        Fit an unpenalised constant b.
    tol : float
        Relative duality gap, as of :func:`simplicit.solve_rows`; scikit-learn's ``tol`` is a share of ‖y‖².
    sparse_coef : bool
        Keep ``coef_`` as a sparse matrix (r, d).
    executor : str
        Where blocks of targets are solved, as for :func:`simplicit.solve_rows`.

    Attributes
    ----------
    coef_ : array of shape (d,), or (r, d) for targets (m, r)
    sparse_coef_ : sparse matrix of shape (1, d) or (r, d)
    intercept_ : float or array of shape (r,)
    dual_gap_ : float or array of shape (r,)
        No w has an objective smaller by more than this.
    n_iter_ : int or list of int
        How often each target was solved: once.
    n_features_in_ : int
    feature_names_in_ : array of shape (d,)
        Where X of the fit is a data frame with texts as names.

    Examples
    --------
    >>> import numpy as np
    >>> from simplicit.sklearn import Lasso
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 20))
    >>> Y = X[:, :2] @ rng.normal(size=(2, 3))
    >>> Lasso(alpha=0.01).fit(X, Y).coef_.shape
    (3, 20)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to samples X (m, d), dense or sparse, and targets (m,) or (m, r), each sample counting s ≥ 0 times.

        Raises
        ------
        InputError
            For a parameter or a sample weight out of range; a ValueError of scikit-learn for the rest.
        """
        fold, one = self._checked(X, y, sample_weight)
        (solution,) = fold.path([L1(as_number("alpha", self.alpha))])
        return self._keep(solution, one)


class ElasticNet(Regressor):
    r"""The elastic net, min 1/(2m)‖y − Xw − b‖² + αρ‖w‖₁ + ½α(1 − ρ)‖w‖², of every target, with a duality gap for each.

    Parameters
    ----------
    alpha : float
        α ≥ 0.
    l1_ratio : float
        ρ between 0, ridge regression, and 1, the lasso.
    fit_intercept, tol, sparse_coef, executor
        As of :class:`Lasso`, like the attributes.

    Examples
    --------
    >>> import numpy as np
    >>> from simplicit.sklearn import ElasticNet
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 20))
    >>> ElasticNet(alpha=0.1, l1_ratio=0.7).fit(X, X[:, 0]).coef_.shape
    (20,)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """As of :class:`Lasso`."""
        if as_number("l1_ratio", self.l1_ratio) > 1:
            raise refused("l1_ratio", f"must lie between 0 and 1, got {self.l1_ratio!r}")
        fold, one = self._checked(X, y, sample_weight)
        (solution,) = fold.path([penalty(as_number("alpha", self.alpha), self.l1_ratio)])
        return self._keep(solution, one)


class BallLasso(Regressor):
    r"""The lasso in a ball, min 1/(2m)‖y − Xw − b‖² + α‖w‖₁ s.t. ‖w_J‖₁ ≤ κ, of every target, with a gap for each.

    Parameters
    ----------
    radius : float
        κ > 0, Tibshirani's bound; it holds exactly.
    alpha : float
        α ≥ 0, the price of ‖w‖₁ besides.
    columns : slice, indices or boolean mask, optional
        J; all columns when left out.
    fit_intercept, tol, sparse_coef, executor
        As of :class:`Lasso`, like the attributes.

    Attributes
    ----------
    multiplier_ : float or array of shape (r,)
        The rate at which the least objective falls as κ grows.

    Examples
    --------
    >>> import numpy as np
    >>> from simplicit.sklearn import BallLasso
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 20))
    >>> bool(abs(BallLasso(radius=0.5).fit(X, X[:, 0]).coef_).sum() <= 0.5)
    True
    """

    def __init__(
        self,
        radius: float = 1.0,
        *,
        alpha: float = 0.0,
        columns: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.radius = radius
        self.alpha = alpha
        self.columns = columns
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """As of :class:`Lasso`."""
        fold, one = self._checked(X, y, sample_weight)
        radius = as_number("radius", self.radius, positive=True)
        (solution,) = fold.path([L1(as_number("alpha", self.alpha))], ball(radius, self.columns))
        self.multiplier_ = float(solution.multiplier[0]) if one else np.asarray(solution.multiplier)
        return self._keep(solution, one)
