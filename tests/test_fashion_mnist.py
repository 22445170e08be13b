"""The main job on real data: every row certified in every regime, and the figures that the README claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from kkt import assert_kkt
from reference import Prices, RowModel
from simplicit.data import Dataset
from simplicit.implicit import scaling_vector

pytestmark = pytest.mark.slow

N_STATES, KAPPA = 112, 0.99


def chosen(fashion: Dataset, m: int, seed: int = 0) -> np.ndarray:
    return fashion.train_inputs[np.random.default_rng(seed).permutation(len(fashion.train_inputs))[:m]]


def accuracy(model: sp.ImplicitModel, fashion: Dataset) -> float:
    return 100 * sp.accuracy(model, fashion.test_inputs, fashion.test_labels)


def test_the_implicit_form_is_the_network(fashion: Dataset, fashion_net: nn.Sequential) -> None:
    model = sp.from_torch(fashion_net, fashion.test_inputs[:2])
    with torch.no_grad():
        expected = fashion_net(torch.from_numpy(fashion.test_inputs)).numpy()
    np.testing.assert_allclose(
        model.predict(fashion.test_inputs), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
    assert (model.n_states, model.n_inputs, model.n_outputs) == (N_STATES, 784, 10)
    np.testing.assert_array_equal(model(fashion.test_inputs[:5]), model.predict(fashion.test_inputs[:5]))
    assert sp.weight_count(fashion_net) == 52_896
    assert float(sp.perron_frobenius(model)) == 0.0
    assert accuracy(model, fashion) >= 88.0


def test_the_rescaling_of_the_paper_goes_the_wrong_way(fashion: Dataset, fashion_net: nn.Sequential) -> None:
    """Theorem 2.4 needs S = diag(1/s); diag(s), as printed, makes the row sums large."""
    model = sp.from_torch(fashion_net, fashion.test_inputs[:2]).astype("float64")
    s, A = scaling_vector(model), abs(model.A).toarray()
    printed = (s[:, None] * A / s).sum(axis=1).max()
    ours = abs(sp.rescale(model).A).sum(axis=1).max()
    assert printed > 10
    assert ours < 1
    assert ours == pytest.approx(((s - 1) / s).max(), rel=1e-12)


@pytest.mark.parametrize(("weight", "beta"), [(0.1, 0.001), (0.01, 0.01)])
@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("m", [100, 600, 2000])
def test_every_row_converges_in_every_regime(
    fashion: Dataset, fashion_net: nn.Sequential, m: int, rescaled: bool, weight: float, beta: float
) -> None:
    """112 rows x 896 columns, dense structure; with 100 and 600 samples the Gram matrix is rank-deficient."""
    model = sp.from_torch(fashion_net, fashion.test_inputs[:2])
    states = sp.extract_states(fashion_net, chosen(fashion, m))
    s = scaling_vector(model) if rescaled else 1.0
    features = np.hstack([states.X / s, states.U]).astype(np.float64)
    targets = (states.Z / s).astype(np.float64)
    solution = sp.solve_rows(
        features, targets, penalty=sp.L1(beta), weight=weight, ball=sp.Ball(KAPPA, slice(0, N_STATES)), tol=1e-6
    )
    assert solution.converged.all()
    floor = 1e-6 * weight * np.square(targets).sum(axis=0)
    assert (solution.dual_gap <= 1e-6 * np.maximum(solution.objective, floor)).all()
    assert (abs(solution.coefficients[:, :N_STATES]).sum(axis=1) <= KAPPA).all()
    in_ball = np.arange(features.shape[1]) < N_STATES
    for i in range(0, N_STATES, 16):
        prices = Prices.of(sp.L1(beta), features.shape[1])
        row = RowModel(features, targets[:, i], prices, weight, radius=KAPPA, in_ball=in_ball)
        w, mu = solution.coefficients[[i]].toarray()[0], float(solution.multiplier[i])
        assert_kkt(row, w, multiplier=mu, gap=float(solution.dual_gap[i]), label=i)


def test_a_third_of_the_weights_keep_the_accuracy(fashion: Dataset, fashion_net: nn.Sequential) -> None:
    result = sp.fit(fashion_net, chosen(fashion, 1000), sp.Matching(sparsity=65, kappa=KAPPA))
    assert abs(result.sparsity - 65) <= 0.5
    assert result.rows.converged.all()
    assert abs(result.model.A).sum(axis=1).max() <= KAPPA
    assert sp.perron_frobenius(result.model).upper < 1
    assert accuracy(result.model, fashion) >= 87.3


def test_attacks_hurt_and_more_so_with_a_larger_box(fashion: Dataset, fashion_net: nn.Sequential) -> None:
    result = sp.fit(fashion_net, chosen(fashion, 500), sp.Matching(sparsity=65, kappa=KAPPA))
    U, labels = fashion.test_inputs[:500], fashion.test_labels[:500]
    clean = sp.accuracy(result.model, U, labels)
    attacked = [
        sp.accuracy(result.model, sp.pgd(result.model, U, labels, eps, steps=10), labels) for eps in (0.004, 8 / 255)
    ]
    assert clean > attacked[0] > attacked[1]
    single = sp.accuracy(result.model, sp.fgsm(result.model, U, labels, 8 / 255), labels)
    assert attacked[1] <= single
