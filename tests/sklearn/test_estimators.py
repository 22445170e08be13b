"""The estimators: scikit-learn's own checks, its own lassos, pipelines and searches."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest
import sklearn.linear_model as peers
from scipy.sparse import csr_array, issparse
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import simplicit as sp
from reference import Prices, RowModel
from simplicit.errors import MissingExtraError
from simplicit.sklearn import BallLasso, BallLassoCV, ElasticNet, ElasticNetCV, Lasso, LassoCV

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 15))
Y = X[:, :4] @ RNG.normal(size=(4, 3)) + 0.5 * RNG.normal(size=(60, 3)) + 2.0
WEIGHTS = RNG.random(60) * (RNG.random(60) < 0.8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        Lasso(executor="serial"),
        ElasticNet(executor="serial"),
        BallLasso(executor="serial"),
        LassoCV(alphas=3, cv=2, executor="serial"),
        ElasticNetCV(alphas=3, cv=2, executor="serial"),
        BallLassoCV(radii=3, cv=2, executor="serial"),
    ]
)
def test_scikit_learn_is_content(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("intercept", [False, True])
def test_they_are_the_lassos_of_scikit_learn(weights: Any, intercept: bool) -> None:
    for ours, theirs in (
        (Lasso(0.1, fit_intercept=intercept), peers.Lasso(0.1, fit_intercept=intercept, tol=1e-10)),
        (ElasticNet(0.2, fit_intercept=intercept), peers.ElasticNet(0.2, fit_intercept=intercept, tol=1e-10)),
    ):
        theirs.fit(X, Y, sample_weight=weights)
        ours.fit(X, Y, sample_weight=weights)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=5e-3)
        sparse = ours.set_params(sparse_coef=True).fit(csr_array(X), Y, sample_weight=weights)
        assert issparse(sparse.coef_)
        np.testing.assert_allclose(sparse.predict(csr_array(X)), theirs.predict(X), atol=5e-3)
        one = ours.set_params(sparse_coef=False).fit(X, Y[:, 0], sample_weight=weights)
        np.testing.assert_allclose(one.coef_, theirs.coef_[0], atol=2e-3)
        assert one.predict(X).shape == (60,)
        assert one.sparse_coef_.shape == (1, 15)


def test_the_gaps_are_proved_against_the_twin() -> None:
    w, m = BallLasso(0.8, alpha=0.05, columns=[0, 1, 2]).fit(X, Y), len(X)
    for row in range(3):
        twin = RowModel(X, Y[:, row], Prices.of(sp.L1(0.05), 15), 0.5 / m, 0.8, np.arange(15) < 3, None, intercept=True)
        least = twin.solve()[0]
        assert twin.objective(w.coef_[row], w.intercept_[row]) - least <= w.dual_gap_[row] + 1e-7 * least
        assert w.dual_gap_[row] <= 1e-5 * least
    assert (abs(w.coef_[:, :3]).sum(axis=1) <= 0.8).all()
    assert (w.multiplier_ >= 0).all()
    assert w.n_iter_ == [1, 1, 1]


@pytest.mark.slow
def test_the_strength_is_the_one_that_scikit_learn_chooses() -> None:
    ours = LassoCV(alphas=20, cv=4).fit(X, Y)
    for row in range(3):
        theirs = peers.LassoCV(alphas=20, cv=4, tol=1e-8).fit(X, Y[:, row])
        np.testing.assert_allclose(ours.alphas_[row], theirs.alphas_, rtol=1e-9)
        np.testing.assert_allclose(ours.mse_path_[row], theirs.mse_path_, rtol=1e-2)
        np.testing.assert_allclose(ours.alpha_[row], theirs.alpha_, rtol=1e-9)
    both = ElasticNetCV(l1_ratio=[0.3, 1.0], alphas=8, cv=3).fit(X, Y[:, 0], sample_weight=WEIGHTS)
    theirs = peers.ElasticNetCV(l1_ratio=[0.3, 1.0], alphas=8, cv=3, tol=1e-8).fit(X, Y[:, 0], WEIGHTS)
    assert both.mse_path_.shape == theirs.mse_path_.shape
    np.testing.assert_allclose([both.alpha_, both.l1_ratio_], [theirs.alpha_, theirs.l1_ratio_], rtol=1e-9)
    inside = BallLassoCV(radii=6, cv=3).fit(X, Y)
    assert inside.radii_.shape == (3, 6)
    assert (abs(inside.coef_).sum(axis=1) <= inside.radius_).all()


def test_they_work_in_pipelines_and_searches() -> None:
    search = GridSearchCV(make_pipeline(StandardScaler(), Lasso()), {"lasso__alpha": [0.01, 1.0]}, cv=3)
    search.fit(X, Y)
    assert search.best_params_ == {"lasso__alpha": 0.01}
    assert search.score(X, Y) > 0.5


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        Lasso().predict(X)
    with pytest.raises(sp.InputError, match="alpha must be a finite number of at least 0"):
        Lasso(-1.0).fit(X, Y)
    with pytest.raises(sp.InputError, match="l1_ratio: must lie between 0 and 1"):
        ElasticNet(l1_ratio=2.0).fit(X, Y)
    with pytest.raises(sp.InputError, match="l1_ratio: must be above 0"):
        ElasticNetCV(l1_ratio=0.0).fit(X, Y)
    with pytest.raises(sp.InputError, match="radius must be positive"):
        BallLasso(0.0).fit(X, Y)
    with pytest.raises(sp.InputError, match="sample_weight must be finite and >= 0"):
        Lasso().fit(X, Y, sample_weight=-np.ones(60))


def test_feature_names_must_be_those_of_the_fit() -> None:
    pandas = pytest.importorskip("pandas")
    names = [f"f{i}" for i in range(15)]
    fitted = Lasso(0.1).fit(pandas.DataFrame(X, columns=names), Y)
    assert fitted.feature_names_in_.tolist() == names
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(pandas.DataFrame(X, columns=names[::-1]))


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("simplicit.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"needs scikit-learn: pip install 'simplicit\[sklearn\]'"):
        importlib.import_module("simplicit.sklearn")
