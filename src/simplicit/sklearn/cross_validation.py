"""Estimators that choose their strength by cross-validation: ``LassoCV``, ``ElasticNetCV`` and ``BallLassoCV``.

Every fold is one path over all strengths, for all targets at once, and each target chooses its own strength.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.model_selection import check_cv

from simplicit.checks import as_array, as_count, as_number, refused
from simplicit.rows import L1, Solution
from simplicit.rows.batch import Array
from simplicit.sklearn.base import Fold, Regressor, ball, penalty

#: Solves a fold along the strengths of every target, (k, r).
FoldPath = Callable[[Fold, Array], list[Solution]]


def errors(fold: Fold, grid: Array, path: FoldPath, cv: Any) -> Array:
    """The mean squared errors (k, r, folds) at strengths (k, r) on what is left out, weighted like the samples."""
    splits = list(check_cv(cv).split(fold.X, fold.targets))
    result = np.empty((*grid.shape, len(splits)))
    for number, (train, test) in enumerate(splits):
        left_out = fold.taken(test)
        for k, solution in enumerate(path(fold.taken(train), grid)):
            image = np.asarray((left_out.X @ solution.coefficients.T.toarray()) + solution.intercepts)
            squares = (image - left_out.targets) ** 2
            result[k, :, number] = np.average(squares, axis=0, weights=left_out.sample_weight)
    return result


def means(fold: Fold, mse: Array, cv: Any) -> Array:
    """The mean errors over the folds (k, r), which count as much as the weights of their samples."""
    if fold.sample_weight is None:
        return np.asarray(mse.mean(axis=-1))
    shares = [fold.sample_weight[test].sum() for _, test in check_cv(cv).split(fold.X, fold.targets)]
    return np.asarray(np.average(mse, axis=-1, weights=shares))


def geometric(largest: Array, eps: float, values: Any, name: str) -> Array:
    """The grid (k, r), strong to weak: from the largest of each target down to ``eps`` of it, or the given values."""
    if isinstance(values, int | np.integer):
        share = as_number("eps", eps, positive=True)
        if share >= 1:
            raise refused("eps", f"must lie between 0 and 1, got {eps!r}")
        tops = np.maximum(largest, np.finfo(float).resolution)
        return np.asarray(tops * np.geomspace(1.0, share, as_count(name, values))[:, None])
    given = as_array(name, values).astype(np.float64)
    if given.ndim != 1 or not len(given) or not (np.isfinite(given) & (given >= 0)).all():
        raise refused(name, "give a number of strengths, or a sequence of finite ones of at least 0")
    return np.repeat(np.sort(given)[::-1, None], len(largest), axis=1)


class _ChosenStrength(Regressor):
    """The strength α of every target is chosen by cross-validation; ``_ratios`` says for which ρ."""

    alphas: Any
    eps: float
    cv: Any

    def _ratios(self) -> list[float]:
        return [1.0]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose, and fit to all samples with what is chosen; arguments as of :class:`Lasso`."""
        ratios = self._ratios()
        fold, one = self._checked(X, y, sample_weight)
        strongest, grids, errors_ = fold.strongest(), list[Array](), list[Array]()
        for ratio in ratios:
            grid = geometric(strongest / max(ratio, 1e-300), self.eps, self.alphas, "alphas")

            def path(part: Fold, grid: Array, ratio: float = ratio) -> list[Solution]:
                return part.path([penalty(alphas, ratio) for alphas in grid])

            grids.append(grid)
            errors_.append(errors(fold, grid, path, self.cv))
        targets, mean = np.arange(len(strongest)), np.stack([means(fold, mse, self.cv) for mse in errors_])
        place, k = np.unravel_index(mean.reshape(-1, len(targets)).argmin(axis=0), mean.shape[:2])
        alpha, chosen = np.stack(grids)[place, k, targets], np.asarray(ratios)[place]
        self._chosen(one, alpha, chosen, np.stack(grids), np.stack(errors_))
        (solution,) = fold.path([penalty(alpha, chosen)])
        return self._keep(solution, one)

    def _chosen(self, one: bool, alpha: Array, ratio: Array, grids: Array, mse: Array) -> None:
        """Keep what was chosen among what, targets first unless there is one alone, without a line for a single ρ."""
        grids, mse = np.moveaxis(grids, 2, 0), np.moveaxis(mse, 2, 0)  # (r, ratios, k), (r, ratios, k, folds)
        if grids.shape[1] == 1:
            grids, mse = grids[:, 0], mse[:, 0]
        self.alpha_ = float(alpha[0]) if one else alpha
        self.l1_ratio_ = float(ratio[0]) if one else ratio
        self.alphas_: Array = grids[0] if one else grids
        self.mse_path_: Array = mse[0] if one else mse


class LassoCV(_ChosenStrength):
    r"""The lasso of every target, whose α is chosen by cross-validation, each target its own.

    Parameters
    ----------
    alphas : int or sequence of float
        How many α there are, from the one at which all is zero down to ``eps`` of it, geometrically; or the α.
    eps : float
        The least α as a share of the largest.
    cv : int, splitter or iterable, optional
        As of scikit-learn; five folds when left out.
    fit_intercept, tol, sparse_coef, executor
        As of :class:`Lasso`, like the attributes.

    Attributes
    ----------
    alpha_ : float or array of shape (r,)
    alphas_ : array of shape (k,) or (r, k)
    mse_path_ : array of shape (k, folds) or (r, k, folds)

    Examples
    --------
    >>> import numpy as np
    >>> from simplicit.sklearn import LassoCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 20))
    >>> LassoCV(alphas=10).fit(X, X[:, :3]).alpha_.shape
    (3,)
    """

    def __init__(
        self,
        *,
        alphas: Any = 100,
        eps: float = 1e-3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.alphas = alphas
        self.eps = eps
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor


class ElasticNetCV(_ChosenStrength):
    r"""The elastic net of every target, whose α, and ρ among several, are chosen by cross-validation.

    Parameters
    ----------
    l1_ratio : float or sequence of float
        ρ above 0 and at most 1.
    alphas, eps, cv
        As of :class:`LassoCV`.
    fit_intercept, tol, sparse_coef, executor
        As of :class:`Lasso`, like the attributes.

    Attributes
    ----------
    alpha_, l1_ratio_ : float or array of shape (r,)
    alphas_ : array of shape (k,), with several ρ (ratios, k); for targets (m, r) these with r in front
    mse_path_ : array of the shape of ``alphas_`` and the folds
    """

    def __init__(
        self,
        *,
        l1_ratio: Any = 0.5,
        alphas: Any = 100,
        eps: float = 1e-3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.l1_ratio = l1_ratio
        self.alphas = alphas
        self.eps = eps
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor

    def _ratios(self) -> list[float]:
        ratios = [as_number("l1_ratio", ratio) for ratio in np.atleast_1d(np.asarray(self.l1_ratio))]
        if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
            raise refused("l1_ratio", f"must be above 0 and at most 1, got {self.l1_ratio!r}")
        return ratios


class BallLassoCV(Regressor):
    r"""The lasso in a ball, whose radius is chosen by cross-validation, each target its own.

    Parameters
    ----------
    radii : int or sequence of float
        How many κ there are, from ``eps`` of ‖w_J‖₁ of the solution without a ball up to it, geometrically; or the κ.
    eps : float
        The least κ as a share of the largest.
    alpha : float
        α ≥ 0 of :class:`BallLasso`. Where the largest κ is looked for it is at least 1e-3 of the α of w = 0.
    columns : slice, indices or boolean mask, optional
        J; all columns when left out.
    cv : int, splitter or iterable, optional
        As of scikit-learn; five folds when left out.
    fit_intercept, tol, sparse_coef, executor
        As of :class:`Lasso`, like the attributes.

    Attributes
    ----------
    radius_, multiplier_ : float or array of shape (r,)
    radii_ : array of shape (k,) or (r, k)
    mse_path_ : array of shape (k, folds) or (r, k, folds)
    """

    def __init__(
        self,
        *,
        radii: Any = 30,
        eps: float = 1e-2,
        alpha: float = 0.0,
        columns: Any = None,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        sparse_coef: bool = False,
        executor: str = "threads",
    ) -> None:
        self.radii = radii
        self.eps = eps
        self.alpha = alpha
        self.columns = columns
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.sparse_coef = sparse_coef
        self.executor = executor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """As of :class:`LassoCV`."""
        alpha = as_number("alpha", self.alpha)
        fold, one = self._checked(X, y, sample_weight)
        inside = ball(1.0, self.columns).mask(fold.X.shape[1])
        (free,) = fold.path([L1(np.maximum(alpha, 1e-3 * fold.strongest()))])
        largest = np.asarray(abs(free.coefficients.toarray()[:, inside]).sum(axis=1))
        grid = geometric(np.where(largest > 0, largest, 1.0), self.eps, self.radii, "radii")[::-1]
        if not (grid > 0).all():
            raise refused("radii", "must be above 0")

        def path(part: Fold, grid: Array) -> list[Solution]:
            return part.path(L1(alpha), [ball(radii, self.columns) for radii in grid])

        mse = errors(fold, grid, path, self.cv)
        targets = np.arange(len(largest))
        radius = grid[means(fold, mse, self.cv).argmin(axis=0), targets]
        (solution,) = fold.path([L1(alpha)], ball(radius, self.columns))
        self.radius_ = float(radius[0]) if one else radius
        self.radii_ = grid[:, 0] if one else grid.T
        self.mse_path_ = mse[:, 0] if one else np.moveaxis(mse, 1, 0)
        self.multiplier_ = float(solution.multiplier[0]) if one else np.asarray(solution.multiplier)
        return self._keep(solution, one)
