"""``fit`` with every penalty, with rounds, and with exact matching."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import simplicit as sp

Array = npt.NDArray[np.float64]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    return nn.Sequential(*layers).double().eval()


def samples(m: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random((m, 12))


@pytest.mark.parametrize("normalize", ["targets", "both", "none"])
@pytest.mark.parametrize(
    "penalty", [sp.L1(0.02), sp.ElasticNet(0.02, 0.01), sp.Perspective(0.01, 0.02), sp.Perspective(0.01, 0.0)]
)
def test_units(penalty: sp.L1, normalize: str) -> None:
    """Rows are those of the plain problem on targets and features that were divided by their units."""
    net, U = network(), samples(80)
    result = sp.fit(net, U, penalty=penalty, normalize=normalize, structure="feedforward", kappa=None)
    rms = {"none": np.ones(12), "targets": np.ones(12), "both": np.sqrt(np.mean(U**2, axis=0))}[normalize]
    states = sp.extract_states(net, U)
    first = result.model.slices[result.model.groups[-1].name]  # the layer that sees the inputs alone
    scale = sp.rescale(sp.from_torch(net, U)).B[first].toarray() / sp.from_torch(net, U).B[first].toarray()
    Z = states.Z[:, first] * scale[:, 0]
    sigma = 1.0 if normalize == "none" else np.sqrt(np.mean(Z**2))
    sol = sp.solve_rows(U / rms, Z / sigma, penalty=penalty, weight=0.1, intercept=True)
    expected = sol.coefficients.toarray() * sigma / rms
    np.testing.assert_allclose(result.model.B[first].toarray(), expected, atol=1e-4 * abs(expected).max())
    np.testing.assert_allclose(result.rows.objective[first], sigma**2 * sol.objective, rtol=1e-5)


@pytest.mark.parametrize("penalty", [sp.L1(1e-3), sp.ElasticNet(1e-3, 1e-3), sp.Perspective(1e-3, 1e-3)])
def test_a_sparsity_is_found(penalty: sp.L1) -> None:
    result = sp.fit(network(), samples(100), penalty=penalty, sparsity=60)
    assert abs(result.sparsity - 60) <= 0.5
    assert result.rows.converged.all()


@pytest.mark.parametrize(
    ("penalty", "told"),
    [
        (sp.NoPenalty(), r"sparsity: NoPenalty\(\) gives no zeros"),
        (sp.Perspective(1e-3, 0.0), "gives no zeros, however strong it is"),
        (sp.ElasticNet(0.0, 1e-3), "gives no zeros"),
        (sp.L1(0.0), "gives no zeros"),
        (sp.BasisPursuit(), r"sparsity: BasisPursuit\(\) matches exactly"),
    ],
)
def test_a_sparsity_that_no_strength_gives(penalty: sp.L1, told: str) -> None:
    with pytest.raises(sp.InputError, match=told):
        sp.fit(network(), samples(40), penalty=penalty, sparsity=50)


def test_ridge_has_no_zeros_and_a_price_on_them_has() -> None:
    ridge = sp.fit(network(), samples(100), penalty=sp.Perspective(0.1, 0.0))
    priced = sp.fit(network(), samples(100), penalty=sp.Perspective(0.1, 0.5))
    dense = sp.fit(network(), samples(100), penalty=sp.NoPenalty())
    np.testing.assert_array_equal(ridge.rows.nnz[:18], dense.rows.nnz[:18])  # dead states have none in either
    assert priced.model.nnz < 0.8 * ridge.model.nnz
    assert np.isfinite(priced.rows.cardinality_gap).all()
    assert np.isnan(sp.fit(network(), samples(40)).rows.cardinality_gap).all()


def test_rounds_spare_what_is_large() -> None:
    """At the same sparsity, re-weighted rounds match better: they shrink less of what they keep."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)).double().eval()
    U = np.random.default_rng(1).normal(size=(300, 20))
    once, thrice = (sp.fit(net, U, sparsity=50, rounds=rounds) for rounds in (1, 3))
    assert thrice.rows.converged.all()
    assert thrice.errors["output"] < 0.9 * once.errors["output"]
    assert "3 rounds" in thrice.summary()
    with pytest.raises(sp.InputError, match="rounds must be an integer of at least 1, got 0"):
        sp.fit(network(), samples(20), rounds=0)


@pytest.mark.parametrize("normalize", ["targets", "none"])
@pytest.mark.parametrize("structure", ["baseline", "dense"])
@pytest.mark.parametrize("m", [6, 120])
def test_exact_matching(structure: str, normalize: str, m: int) -> None:
    """(8) and (9): the states and the outputs are those of the baseline, with the least norm there is."""
    U = samples(m)
    result = sp.fit(network(), U, penalty=sp.BasisPursuit(), structure=structure, normalize=normalize)
    assert result.rows.converged.all()
    with torch.no_grad():
        outputs = network()(torch.from_numpy(U)).numpy()
    np.testing.assert_allclose(result.model.predict(U), outputs, atol=1e-6)
    assert result.row_norm <= 0.99
    if normalize == "none":
        baseline = sp.rescale(sp.from_torch(network(), U))
        norms = abs(baseline.B).sum(axis=1) + abs(baseline.A).sum(axis=1)
        assert (result.rows.objective[: len(norms)] <= norms * (1 + 1e-6)).all()


def test_exact_matching_that_the_ball_forbids() -> None:
    with pytest.raises(sp.ConvergenceError, match="no coefficients match the target exactly") as caught:
        sp.fit(network(), samples(120), penalty=sp.BasisPursuit(), kappa=0.05)
    assert isinstance(caught.value.solution, sp.Solution)
    result = sp.fit(network(), samples(120), penalty=sp.BasisPursuit(), kappa=0.05, throw=False)
    assert (result.rows.status == sp.RowStatus.INFEASIBLE).any()
    assert result.row_norm <= 0.05
