"""``Sparse``: weights to the number, on channels and on states, with candidates and structures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, errors_of, matrix, mlp, row_norm_of, uniform
from simplicit.training.channels import ChannelStudent
from simplicit.training.states import STRUCTURES, StateStudent
from tied_nets import subject

NET = Subject(mlp(12, 10, 8, 4, bias=False), uniform(150))
WEIGHTS = 12 * 10 + 10 * 8 + 8 * 4


@cache
def fitted(recipe: str) -> sp.FitResult:
    return NET.fit({"channels": sp.Sparse(70), "states": sp.Sparse(70, structure="feedforward")}[recipe])


@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
@pytest.mark.parametrize("sparsity", [0, 77.7, 99])
def test_a_sparsity_is_met_to_the_weight(sparsity: float, structure: str) -> None:
    result = NET.fit(sp.Sparse(sparsity, structure))
    assert result.model.nnz == result.nnz == int(WEIGHTS * (1 - sparsity / 100) + 1e-9)
    assert result.rows.converged.all()
    assert sp.perron_frobenius(result.model).upper == 0
    assert np.isfinite(result.model.predict(uniform(9))).all()


@pytest.mark.parametrize(
    ("structure", "kind"), [("baseline", ChannelStudent), ("feedforward", StateStudent), ("dense", StateStudent)]
)
def test_rows_are_channels_where_the_structure_is_the_network_s_own(structure: str, kind: type) -> None:
    assert isinstance(NET.fit(sp.Sparse(90, structure)).student, kind)


def test_weights_of_another_form_are_channels_too() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shift = nn.Parameter(torch.randn(12, 9)), nn.Parameter(torch.randn(9))
            self.register_buffer("scale", torch.tensor(2.0))
            self.last = nn.Linear(9, 4)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(torch.relu(u @ (self.scale * self.first) + self.shift))
            return result

    torch.manual_seed(0)
    own = Subject(Transposed().double().eval(), uniform(150))
    result = own.fit(sp.Sparse(60))
    assert isinstance(result.student, ChannelStudent)
    assert result.nnz == int(0.4 * (12 * 9 + 9 * 4) + 1e-9)
    np.testing.assert_allclose(
        result.network()(torch.from_numpy(uniform(9))).detach(), result.model.predict(uniform(9)), atol=1e-10
    )


def test_elimination_is_better_than_the_penalty_at_the_same_number_of_weights() -> None:
    """Both take the values from ridge and every layer on the baseline's states but the last."""
    penalised = NET.fit(sp.Matching(sp.L1(4.0), normalize="both", refit=sp.Ridge(1e-6)), uniform(400))
    assert 20 < penalised.sparsity < 80
    sparsity = 100 * (1 - penalised.nnz / WEIGHTS)
    eliminated = NET.fit(sp.Sparse(sparsity, ridge=1e-6), uniform(400))
    assert eliminated.nnz == penalised.nnz
    fresh = uniform(200, seed=7)
    errors = [np.linalg.norm(result.model.predict(fresh) - NET.outputs(fresh)) for result in (eliminated, penalised)]
    assert errors[0] < errors[1]


def test_more_sparsity_costs_fidelity() -> None:
    errors = [errors_of(NET.fit(sp.Sparse(sparsity)))["4"] for sparsity in (20, 60, 95)]
    assert errors == sorted(errors)


def test_workers_do_not_change_the_network() -> None:
    networks = [
        NET.fit(sp.Sparse(70), executor=executor).network().state_dict()
        for executor in (sp.Threads(workers=1), sp.Threads(workers=3), "serial")
    ]
    for other in networks[1:]:
        for key, value in other.items():
            torch.testing.assert_close(value, networks[0][key], rtol=0, atol=0)


@pytest.mark.slow
def test_dead_states_and_constant_inputs() -> None:
    net = mlp(12, 10, 8, 4)
    with torch.no_grad():
        net[0].bias[3] = -1e3
        net[2].weight[2] = 0.0
    U = uniform(150)
    U[:, 5] = 0.0
    own = Subject(net, U)
    for structure in ("baseline", "feedforward"):
        result = own.fit(sp.Sparse(60, structure))
        assert result.rows.converged.all()
        assert np.isfinite(result.model.predict(U)).all()


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Linear(12, 3)).double().eval(), mlp(12, 6, 3)], ids=["no states", "biases"]
)
def test_all_weights_without_a_ridge_are_the_network(net: nn.Module) -> None:
    own = Subject(net, uniform(400))
    result = own.fit(sp.Sparse(0, ridge=0.0))
    np.testing.assert_allclose(result.model.predict(own.inputs), own.outputs(own.inputs), atol=1e-5)


def test_one_sample() -> None:
    for structure in ("baseline", "feedforward"):
        result = NET.fit(sp.Sparse(50, structure), uniform(1))
        assert result.rows.converged.all()


# --- structures -------------------------------------------------------------------------------------------------------


def test_a_wider_structure_has_weights_where_the_network_has_none() -> None:
    result = fitted("states")
    admitted, own = (STRUCTURES[name].admissible(NET.captured.model) for name in ("feedforward", "baseline"))
    M = matrix(result.model)
    assert not M[~admitted].any()
    assert M[admitted & ~own].any()
    assert result.nnz == fitted("channels").nnz == int(0.3 * WEIGHTS + 1e-9)
    fresh = uniform(200, seed=7)
    errors = [np.linalg.norm(one.model.predict(fresh) - NET.outputs(fresh)) for one in (result, fitted("channels"))]
    assert errors[0] < 1.5 * errors[1]
    with pytest.raises(sp.InputError, match="structure 'feedforward' has weights where the network has none"):
        result.network()


@pytest.mark.parametrize("structure", ["dense", "no-self"])
def test_dense_structures_stay_in_the_ball(structure: str) -> None:
    result = NET.fit(sp.Sparse(80, structure, candidates=sp.L1(0.02)))
    assert result.nnz == int(0.2 * WEIGHTS + 1e-9)
    assert row_norm_of(result) <= 0.99
    assert sp.perron_frobenius(result.model).upper < 1
    assert "lambda_pf" in result.summary()


def test_a_network_with_convolutions_takes_its_own_structure() -> None:
    with pytest.raises(sp.InputError, match=r"structure: got 'feedforward'; .* takes 'baseline'") as caught:
        subject("plain").fit(sp.Sparse(50, "feedforward"))
    assert caught.value.argument == "structure"


# --- candidates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
def test_candidates_are_what_the_penalty_leaves(structure: str) -> None:
    """On the baseline's states, with those of the penalty's own weights that are zero left out."""
    candidates = sp.L1(0.1)
    every = NET.fit(sp.Sparse(None, structure, candidates=candidates))
    some = NET.fit(sp.Sparse(85, structure, candidates=candidates))
    assert every.nnz < sp.weight_count(NET.net)
    assert some.nnz == int(0.15 * WEIGHTS + 1e-9) < every.nnz
    if structure == "feedforward":  # in the units of the states the penalised solution itself says which
        matched = NET.fit(sp.Matching(candidates, structure=structure, regenerate=False))
        assert every.nnz == matched.nnz


def test_the_candidates_of_channels_are_as_many_as_a_penalty_keeps_there() -> None:
    own = subject("residual")
    penalised = own.fit(sp.Matching(sp.L1(1e-3)))
    chosen = own.fit(sp.Sparse(None, candidates=sp.L1(1e-3)))
    assert chosen.nnz == pytest.approx(penalised.nnz, rel=0.1)
    with pytest.raises(sp.InputError, match="sparsity: 1 % cannot be reached"):
        own.fit(sp.Sparse(1, candidates=sp.L1(10.0)))


def test_unreachable_sparsity_says_the_nearest() -> None:
    kept = NET.fit(sp.Sparse(None, candidates=sp.L1(0.1))).nnz
    nearest = f"{100 * (1 - kept / WEIGHTS):.2f} %"
    with pytest.raises(sp.InputError, match=f"sparsity: 1 % cannot be reached.*the nearest is {nearest}"):
        NET.fit(sp.Sparse(1, candidates=sp.L1(0.1)))


def test_where_nothing_says_a_sparsity_it_is_80_per_cent() -> None:
    assert NET.fit(sp.Sparse()).nnz == NET.fit(sp.Sparse(80)).nnz == int(0.2 * WEIGHTS)
    with pytest.raises(sp.InputError, match=r"sparsity: .* gives no zeros, so sparsity must say how many"):
        NET.fit(sp.Sparse(candidates=sp.Perspective(1e-3, 0.0)))


# --- ridge and anchor -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [np.int64(50), np.float64(50.0), 50, None])
def test_ridge_and_anchor_suit_the_network_and_the_sparsity(sparsity: Any) -> None:
    recipe = sp.Sparse(sparsity, candidates=sp.L1(1e-4))
    assert subject("plain").fit(recipe).ridge == sp.Ridge(0.01, 1.0)
    ridge, anchor = (1e-3, 0.8) if sparsity is None else (0.01 / np.sqrt(0.5), 0.6)
    for structure in ("baseline", "feedforward"):
        found = NET.fit(replace(recipe, structure=structure)).ridge
        assert found is not None
        assert (found.ridge, found.anchor) == (pytest.approx(ridge), anchor)


def test_a_ridge_or_an_anchor_that_is_given_wins() -> None:
    assert NET.fit(sp.Sparse(80, ridge=0.5)).ridge == sp.Ridge(0.5, 0.8)
    found = NET.fit(sp.Sparse(80, anchor=0.25)).ridge
    assert found is not None
    assert (found.ridge, found.anchor) == (pytest.approx(0.01 / np.sqrt(0.2)), 0.25)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": sp.BasisPursuit()}, "candidates: BasisPursuit matches exactly"),
        ({"candidates": 0.1}, "candidates: expected a penalty"),
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"ridge": 1e300}, "ridge must be at most 1e"),
        ({"anchor": 1.5}, "anchor must lie between 0 and 1, got 1.5"),
        ({"structure": "full"}, "structure: 'full' is unknown"),
        ({"sparsity": 100}, "sparsity is in per cent"),
        ({"sparsity": "many"}, "sparsity"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.Sparse(**change)


@pytest.mark.parametrize("asked", [0.8, 0.5, 0.999])
def test_a_share_is_asked_back(asked: float) -> None:
    with pytest.raises(sp.InputError, match=rf"per cent, got {asked}; did you mean {100 * asked:g}\?") as caught:
        sp.Sparse(asked)
    assert caught.value.argument == "sparsity"


def test_a_structure_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lets every layer see the inputs too."""

    def with_inputs(model: sp.ImplicitModel) -> Any:
        mask = STRUCTURES["baseline"].admissible(model).copy()
        mask[:, model.n_states :] = True
        return mask

    monkeypatch.setitem(STRUCTURES, "inputs", replace(STRUCTURES["baseline"], admissible=with_inputs))
    for recipe in (
        sp.Sparse(70, "inputs"),
        sp.Matching(sp.L1(1e-5), structure="inputs"),
        sp.Robust(structure="inputs"),
    ):
        model = NET.fit(recipe).model
        allowed = with_inputs(NET.captured.model)
        assert not matrix(model)[~allowed].any()
        assert matrix(model)[allowed & (matrix(NET.captured.model) == 0)].any()
