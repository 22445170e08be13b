"""``Matching`` with every penalty, with rounds, and with exact matching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, errors_of, mlp, row_norm_of, uniform

NET = Subject(mlp(12, 10, 8, 4), uniform(100))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [sp.L1(1e-3), sp.ElasticNet(1e-3, 1e-3), sp.Perspective(1e-3, 1e-3)])
def test_a_sparsity_is_found(penalty: sp.L1) -> None:
    result = NET.fit(sp.Matching(penalty, sparsity=60, kappa=0.99))
    assert abs(result.sparsity - 60) <= 0.5
    assert result.rows.converged.all()


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (sp.NoPenalty(), r"sparsity: NoPenalty\(\) gives no zeros"),
        (sp.Perspective(1e-3, 0.0), "gives no zeros, however strong it is"),
        (sp.ElasticNet(0.0, 1e-3), "gives no zeros"),
        (sp.L1(0.0), "gives no zeros"),
        (sp.BasisPursuit(), r"sparsity: BasisPursuit\(\) matches exactly"),
    ],
)
def test_a_sparsity_that_no_strength_gives(penalty: sp.L1, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        NET.fit(sp.Matching(penalty, sparsity=50), uniform(40))


def test_ridge_has_no_zeros_and_a_price_on_them_has() -> None:
    ridge, priced, dense = (
        NET.fit(sp.Matching(penalty, kappa=0.99))
        for penalty in (sp.Perspective(0.1, 0.0), sp.Perspective(0.1, 0.5), sp.NoPenalty())
    )
    np.testing.assert_array_equal(ridge.rows.nnz[:18], dense.rows.nnz[:18])  # dead states have none in either
    assert priced.model.nnz < 0.8 * ridge.model.nnz
    assert np.isfinite(priced.rows.cardinality_gap).all()
    assert np.isnan(NET.fit(sp.Matching(), uniform(40)).rows.cardinality_gap).all()


@pytest.mark.slow
def test_rounds_spare_what_is_large() -> None:
    """At the same sparsity, re-weighted rounds match better: they shrink less of what they keep."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)).double().eval()
    subject = Subject(net, np.random.default_rng(1).normal(size=(300, 20)))
    recipe = sp.Matching(sparsity=50, kappa=0.99)
    once, thrice = (subject.fit(replace(recipe, rounds=rounds)) for rounds in (1, 3))
    assert thrice.rows.converged.all()
    assert errors_of(thrice)["output"] < 0.9 * errors_of(once)["output"]
    assert "rounds 3" in thrice.summary()


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["targets", "none"])
@pytest.mark.parametrize("structure", ["baseline", "dense"])
@pytest.mark.parametrize("m", [6, 120])
def test_exact_matching(structure: str, normalize: str, m: int) -> None:
    """(8) and (9): the states and the outputs are those of the baseline, with the least norm there is."""
    U = uniform(m)
    result = NET.fit(sp.Matching(sp.BasisPursuit(), structure=structure, normalize=normalize, kappa=0.99), U)
    assert result.rows.converged.all()
    np.testing.assert_allclose(result.model.predict(U), NET.outputs(U), atol=1e-6)
    assert row_norm_of(result) <= 0.99
    if normalize == "none":
        baseline = sp.rescale(NET.captured.model)
        norms = abs(baseline.B).sum(axis=1) + abs(baseline.A).sum(axis=1)
        assert (result.rows.objective[: len(norms)] <= norms * (1 + 1e-6)).all()


def test_exact_matching_that_the_ball_forbids() -> None:
    recipe = sp.Matching(sp.BasisPursuit(), kappa=0.05)
    with pytest.raises(sp.ConvergenceError, match="no coefficients match the target exactly") as caught:
        NET.fit(recipe, uniform(120))
    assert isinstance(caught.value.solution, sp.Solution)
    assert str(caught.value).count("With throw=False") == 1
    result = NET.fit(recipe, uniform(120), throw=False)
    assert (result.rows.status == sp.rows.RowStatus.INFEASIBLE).any()
    assert row_norm_of(result) <= 0.05
