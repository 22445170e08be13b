"""Gram matrices of few samples by a factor of few rows, against the matrices themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import simplicit as sp
from simplicit.training.factor import LEAST_COLUMNS, LowRank
from simplicit.training.support.elimination import least_squares

Array = npt.NDArray[np.float64]
D = LEAST_COLUMNS


def gram(m: int = 9, *, seed: int = 0, scale: float = 1.0, ridge: float = 1e-2) -> tuple[Array, float]:
    """H and δ of samples with a column of zeros and two that are equal."""
    features = scale * np.random.default_rng(seed).normal(size=(m, D))
    features[:, 3], features[:, 5] = 0.0, features[:, 4]
    H = features.T @ features
    delta = ridge * float(H.diagonal().mean())
    return H + delta * np.eye(D), delta


@pytest.mark.parametrize("scale", [1.0, 1e-60, 1e60])
@pytest.mark.parametrize("ridge", [1e-2, 1e-5])
def test_it_is_the_matrix_for_every_product_and_solution(scale: float, ridge: float) -> None:
    H, delta = gram(scale=scale, ridge=ridge)
    low_rank = LowRank.of(H, delta, 9)
    assert low_rank is not None
    assert len(low_rank.factor) == 9
    rng = np.random.default_rng(1)
    rows, c = rng.normal(size=(2, D)), rng.normal(size=D)
    np.testing.assert_allclose(low_rank.product(rows) / delta, rows @ H / delta, atol=1e-12 * np.trace(H) / delta)
    support = np.sort(rng.permutation(D)[:100])
    w = least_squares(H, c, support)
    np.testing.assert_allclose(low_rank.least_squares(c, support), w, atol=1e-9 * abs(w).max())
    assert not low_rank.least_squares(c, support[:0]).any()
    units = 1 / np.sqrt(H.diagonal())
    expected = np.linalg.solve(H * np.outer(units, units) + 0.3 * np.eye(D), rows.T).T
    np.testing.assert_allclose(low_rank.resolvent(units, 0.3)(rows), expected, atol=1e-11)
    values, vectors = low_rank.eigen
    np.testing.assert_allclose(H @ vectors / delta, vectors * values / delta, atol=1e-11 * np.trace(H) / delta)


def test_columns_that_never_vary_have_a_factor_without_rows() -> None:
    low_rank = LowRank.of(np.eye(D), 1.0, 4)
    assert low_rank is not None
    assert low_rank.factor.shape == (0, D)
    np.testing.assert_array_equal(low_rank.least_squares(np.ones(D), np.arange(D)), np.ones(D))


def test_the_matrix_is_taken_as_a_whole_where_that_is_cheaper_or_digits_are_wanting() -> None:
    H, delta = gram()
    assert LowRank.of(H, delta, D // 8 + 1) is None
    assert LowRank.of(H[:-1, :-1], delta, 9) is None
    assert LowRank.of(H, 0.0, 9) is None
    noise = np.random.default_rng(0).normal(size=(D, D)) * 1e-6
    assert LowRank.of(H + noise + noise.T, delta, 9) is None
    tiny, delta = gram(ridge=1e-10)
    assert LowRank.of(tiny, delta, 9) is None
    unknown, delta = gram()
    unknown[0, 0] = np.nan
    assert LowRank.of(unknown, delta, 9) is None


def test_a_wide_head_on_few_samples_is_fitted_and_proved() -> None:
    """In float32 too, of which the products would have a full rank."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, D, 1), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(D, 6)).eval()
    inputs = torch.rand(8, 1, 3, 3)
    result = sp.fit(net, inputs, sp.Sparse(50, layers={"0.*": None}), executor="serial")
    assert result.sparsity == 50
    assert bool(result.rows.converged.all())
    with torch.no_grad():
        missed = (result.network()(inputs) - net(inputs)).norm() / net(inputs).norm()
    assert missed < 1e-3
