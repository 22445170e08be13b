"""The least-squares record: one from samples and from sums, and its solution by numpy."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import simplicit as sp
from simplicit.training.problem import LEAST_RIDGE, MOST_RIDGE, LeastSquares, Samples, Sums

Array = npt.NDArray[np.float64]
SUPPORT = np.array([[1, 1, 0, 1, 1, 0], [1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]], dtype=bool)


def data(intercept: bool, m: int = 20) -> tuple[Samples, Array]:
    """Samples of three rows on six columns, and weights on the support."""
    rng = np.random.default_rng(0)
    samples = Samples(rng.normal(1.0, 2.0, size=(m, 6)), rng.normal(3.0, 1.0, size=(m, 3)), intercept)
    return samples, rng.normal(size=(3, 6)) * SUPPORT


def sums(samples: Samples) -> Sums:
    """As a provider of sums has them: products less those of the means."""
    features, targets = samples.features, samples.targets
    m, mean, middle = len(features), features.mean(axis=0), targets.mean(axis=0)
    gram, cross, energy = features.T @ features, targets.T @ features, np.square(targets).sum(axis=0)
    if not samples.intercept:
        return Sums(gram, cross, energy, m)
    return Sums(gram - m * np.outer(mean, mean), cross - m * np.outer(middle, mean), energy - m * np.square(middle), m)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [sp.Ridge(0.0), sp.Ridge(0.1), sp.Ridge(0.1, 0.7)])
def test_samples_and_sums_make_the_same_problem(ridge: sp.Ridge, intercept: bool) -> None:
    samples, weights = data(intercept)
    one, other = (LeastSquares.of(found, weights, SUPPORT, ridge) for found in (samples.sums, sums(samples)))
    for item in fields(LeastSquares):
        if item.name != "groups":
            np.testing.assert_allclose(getattr(one, item.name), getattr(other, item.name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("anchor", [0.0, 0.7, 1.0])
def test_it_is_least_squares_on_more_samples(anchor: float, intercept: bool) -> None:
    samples, weights = data(intercept)
    problem = LeastSquares.of(samples.sums, weights, SUPPORT, sp.Ridge(0.3, anchor))
    features = samples.features - intercept * samples.features.mean(axis=0)
    targets = samples.targets - intercept * samples.targets.mean(axis=0)
    delta = 0.3 * np.square(features[:, :5]).sum(axis=0).mean()  # no row may use the last column
    more = np.vstack([features, np.sqrt(delta) * np.eye(6)])
    wanted = np.vstack([targets, np.sqrt(delta) * anchor * weights.T])
    np.testing.assert_allclose(problem.gram, more.T @ more)
    np.testing.assert_allclose(problem.cross, (more.T @ wanted).T)
    np.testing.assert_allclose(problem.energy, np.square(wanted).sum(axis=0))
    found = sp.solve_rows(problem.statistics, penalty=sp.NoPenalty(), support=SUPPORT, tol=1e-9)
    for i, w in enumerate(found.coefficients.toarray()):
        direct = np.linalg.lstsq(more[:, SUPPORT[i]], wanted[:, i], rcond=None)[0]
        np.testing.assert_allclose(w[SUPPORT[i]], direct, rtol=1e-6, atol=1e-9)
        assert not w[~SUPPORT[i]].any()
        error = np.square(more @ w - wanted[:, i]).sum()
        assert found.objective[i] == pytest.approx(error, rel=1e-9)
        assert w @ problem.gram @ w - 2 * problem.cross[i] @ w + problem.energy[i] == pytest.approx(error, rel=1e-9)


def test_constants_leave_residuals_without_a_mean() -> None:
    for intercept in (False, True):
        samples, weights = data(intercept)
        residual = samples.targets - samples.features @ weights.T - samples.constants(weights)
        assert np.abs(residual.mean(axis=0)).max() <= 1e-12 or not intercept
        assert samples.constants(weights).any() == intercept
    assert not sums(samples).constants(weights).any()


def test_every_support_is_positive_definite() -> None:
    """Also of dependent columns without a ridge, and more so where sums are less exact."""
    samples, weights = data(False, m=2)
    least = LeastSquares.of(samples.sums, weights, SUPPORT, sp.Ridge(0.0))
    mean = np.square(samples.features[:, :5]).sum(axis=0).mean()
    np.testing.assert_allclose(least.gram - samples.sums.gram, LEAST_RIDGE * mean * np.eye(6), atol=1e-14)
    np.linalg.cholesky(least.gram)
    exact = sums(samples)
    single = Sums(exact.gram, exact.cross, exact.energy, exact.count, float(np.finfo(np.float32).eps))
    rounded = LeastSquares.of(single, weights, SUPPORT, sp.Ridge(0.0))
    assert (rounded.gram - exact.gram).diagonal().min() > 1000 * LEAST_RIDGE * mean


def test_nothing_to_choose_from() -> None:
    samples, weights = data(True)
    problem = LeastSquares.of(samples.sums, weights, np.zeros_like(SUPPORT), sp.Ridge(0.1))
    assert np.isfinite(problem.gram).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"ridge": True}, "ridge"),
        ({"ridge": 10 * MOST_RIDGE}, "ridge must be at most 1e"),
        ({"anchor": 1.5}, "anchor must lie between 0 and 1, got 1.5"),
        ({"anchor": -0.5}, "anchor"),
    ],
)
def test_bad_ridges(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.Ridge(**change)


@pytest.mark.parametrize("structure", ["baseline", "no-self"])
def test_a_unit_that_is_off_on_all_samples_is_a_zero_column(structure: str) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Sigmoid(), torch.nn.Linear(6, 3)).double().eval()
    with torch.no_grad():
        net[0].bias[3] = -160.0  # a sigmoid of about 1e-70
    X = torch.rand(50, 8, dtype=torch.float64)
    result = sp.fit(net, X, sp.Matching(sp.L1(1e-3), structure=structure), executor="serial")
    assert result.model.C[:, [3]].nnz == 0
    assert result.layers[-1].error < 0.05
