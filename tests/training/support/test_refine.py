"""``propagate``, ``refine``, ``refit`` and presets of ``fit``: what they promise, on small networks."""

from __future__ import annotations

import itertools
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from simplicit.training.ridge import Ridge
from simplicit.training.states.propagate import features_on, stages_of
from simplicit.training.states.statedata import StateData, state_data
from torch import nn

import simplicit as sp
from simplicit.network import capture
from simplicit.training import PRESETS
from simplicit.training.support.allocation import importance

Array = npt.NDArray[np.float64]


def mlp(*sizes: int, bias: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double().eval()


def inputs(m: int = 150, p: int = 12, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random((m, p))


def matrix(model: sp.ImplicitModel) -> Array:
    return np.block([[model.A.toarray(), model.B.toarray()], [model.C.toarray(), model.D.toarray()]])


def data_of(net: nn.Module, U: Array) -> StateData:
    captured = capture(net, U)
    return state_data(captured.model, captured.states(U), captured.weight_count)


NET = mlp(12, 10, 8, 4)
WEIGHTS = 12 * 10 + 10 * 8 + 8 * 4


# --- refine -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0, 77.7, 99])
def test_a_sparsity_is_met_to_the_weight(sparsity: float) -> None:
    result = sp.fit(NET, inputs(), preset="sparse", sparsity=sparsity)
    assert result.model.nnz == int(WEIGHTS * (1 - sparsity / 100) + 1e-9)
    assert result.rows.converged.all()
    assert result.perron_frobenius.upper == 0
    assert np.isfinite(result.model.predict(inputs(9))).all()


def test_refinement_is_better_than_the_penalty_at_the_same_number_of_weights() -> None:
    options: dict[str, Any] = {"penalty": sp.L1(0.05), "normalize": "both", "kappa": None, "regenerate": False}
    plain = sp.fit(NET, inputs(400), **options)
    refined = sp.fit(NET, inputs(400), refine=True, refit=True, ridge=1e-6, **options)
    assert refined.model.nnz == plain.model.nnz
    assert refined.errors["output"] < plain.errors["output"]
    assert "for the candidates" in refined.summary()


def test_values_of_the_penalty_on_a_refined_support() -> None:
    result = sp.fit(NET, inputs(), penalty=sp.L1(1e-3), refine=True, sparsity=60)
    assert result.model.nnz <= int(WEIGHTS * 0.4)
    assert result.rows.converged.all()


def test_workers_do_not_change_the_model() -> None:
    models = [
        sp.fit(NET, inputs(), preset="sparse", sparsity=70, executor=executor).model
        for executor in (sp.Threads(workers=1), sp.Threads(workers=3), "serial")
    ]
    for other in models[1:]:
        np.testing.assert_array_equal(matrix(models[0]), matrix(other))


def test_no_penalty_of_ones_own_leaves_that_of_the_preset() -> None:
    assert isinstance(sp.fit(NET, inputs(), preset="sparse", penalty=None).options.penalty, sp.NoPenalty)


def test_importance_is_the_mean_square_of_the_jacobian() -> None:
    for activation in (nn.ReLU, nn.Tanh):
        U = inputs(40)
        data = data_of(mlp(12, 10, 8, 4, activation=activation), U)
        model, n, step = data.model, data.n_states, 1e-5
        scores = importance(data)
        np.testing.assert_array_equal(scores[n:], 1.0)
        for i in (0, 3, 9, 17):
            bias = np.zeros(n)
            bias[i] = step
            moved = [_shifted(model, sign * bias).predict(U) for sign in (1, -1)]
            slope = (moved[0] - moved[1]) / (2 * step)
            assert scores[i] == pytest.approx(float(np.square(slope).sum(axis=1).mean()), rel=0.02, abs=1e-9)


def _shifted(model: sp.ImplicitModel, bias: Array) -> sp.ImplicitModel:
    parts = (model.A, model.B, model.C, model.D)
    return sp.ImplicitModel.from_matrices(*parts, activation=model.groups, state_bias=bias)


def test_dead_states_and_constant_inputs() -> None:
    net = mlp(12, 10, 8, 4, bias=True)
    with torch.no_grad():
        net[0].bias[3] = -1e3
        net[2].weight[2] = 0.0
    U = inputs()
    U[:, 5] = 0.0
    result = sp.fit(net, U, preset="sparse", sparsity=60)
    assert result.rows.converged.all()
    assert np.isfinite(result.model.predict(U)).all()


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(12, 3)).double().eval(), mlp(12, 6, 3, bias=True)])
def test_networks_with_biases_and_without_states(net: nn.Module) -> None:
    U = inputs(400)
    result = sp.fit(net, U, preset="sparse", sparsity=0, ridge=0.0)
    with torch.no_grad():
        np.testing.assert_allclose(result.model.predict(U), net(torch.from_numpy(U)).numpy(), atol=1e-5)


def test_one_sample() -> None:
    result = sp.fit(NET, inputs(1), preset="sparse", sparsity=50)
    assert result.rows.converged.all()


# --- refit ------------------------------------------------------------------------------------------------------------


def test_a_refit_is_least_squares_on_the_support() -> None:
    U = inputs(300)
    result = sp.fit(NET, U, penalty=sp.L1(0.02), refit=True, ridge=0.0, kappa=None, regenerate=False)
    data, M = data_of(NET, U), matrix(result.model)
    for i in (0, 5, 17, 20):
        support = np.flatnonzero(M[i])
        expected = np.linalg.lstsq(data.features[:, support], data.targets[:, i], rcond=None)[0]
        np.testing.assert_allclose(M[i, support], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("anchor", [0.0, 0.7])
def test_a_refit_under_the_ball_is_that_of_cvxpy(anchor: float) -> None:
    U = inputs(100)
    result = sp.fit(
        NET, U, penalty=sp.L1(0.01), refit=True, ridge=0.3, anchor=anchor, kappa=0.05, regenerate=False, tol=1e-9
    )
    data, M = data_of(NET, U), matrix(result.model)
    n, prior = data.n_states, anchor * matrix(data.model)
    support = matrix(sp.fit(NET, U, penalty=sp.L1(0.01), kappa=0.05, regenerate=False, tol=1e-9).model) != 0
    columns = np.flatnonzero((matrix(data.model) != 0)[:n].any(axis=0))
    delta = 0.3 * np.square(data.features[:, columns]).sum(axis=0).mean()
    row = int(np.argmax(result.rows.multiplier[:n]))
    assert result.rows.multiplier[row] > 0
    w = cp.Variable(data.n_columns)
    loss = cp.sum_squares(data.targets[:, row] - data.features @ w) + delta * cp.sum_squares(w - prior[row])
    cp.Problem(cp.Minimize(loss), [cp.norm1(w[:n]) <= 0.05, w[~support[row]] == 0]).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(M[row], w.value, atol=1e-5)


def test_the_ridge_is_least_squares_on_more_samples() -> None:
    rng = np.random.default_rng(0)
    features, targets, prior = rng.normal(size=(20, 6)), rng.normal(size=(20, 3)), rng.normal(size=(3, 6))
    for intercept in (False, True):
        ridge = Ridge(features, targets, prior, 0.1, np.ones((3, 6), dtype=bool), intercept)
        more, wanted = ridge.samples()
        np.testing.assert_allclose(more.T @ more, ridge.gram)
        np.testing.assert_allclose((more.T @ wanted).T, ridge.cross)
        w = np.linalg.solve(ridge.gram, ridge.cross.T).T
        residual = targets - features @ w.T - ridge.constants(w)
        assert np.abs(residual.mean(axis=0)).max() <= 1e-12 or not intercept


def test_dense_structures_stay_in_the_ball() -> None:
    for structure in ("dense", "no-self"):
        result = sp.fit(
            NET, inputs(), structure=structure, penalty=sp.L1(0.02), kappa=0.5, sparsity=80, refine=True, refit=True
        )
        assert result.row_norm <= 0.5
        assert result.perron_frobenius.upper < 1
        assert "|A|_inf <= kappa" in result.summary()


# --- propagate --------------------------------------------------------------------------------------------------------


def test_each_layer_is_fitted_on_the_states_of_the_layers_just_trained() -> None:
    U = inputs(300)
    result = sp.fit(NET, U, penalty=sp.L1(0.05), propagate=True, kappa=None)
    data = data_of(NET, U)
    features = np.hstack([sp.equilibrium(result.model, U).states, U])  # layers see only those before them
    first, second = reversed(list(data.model.slices.values()))
    outputs = slice(data.n_states, data.n_rows)
    structure, M = matrix(data.model) != 0, matrix(result.model)
    units = {"1": first, "2": second, "output": outputs}
    for rows in units.values():
        sigma = np.sqrt(np.mean(np.square(data.targets[:, rows])))
        weights = sigma * np.r_[np.full(data.n_states, 0.1), np.ones(data.n_columns - data.n_states)]
        solution = sp.solve_rows(
            features, data.targets[:, rows], penalty=sp.L1(0.05, weights), weight=0.1, support=structure[rows]
        )
        np.testing.assert_allclose(M[rows], solution.coefficients.toarray(), atol=1e-5)


def test_propagation_brings_the_outputs_nearer() -> None:
    errors = [
        sp.fit(NET, inputs(400), penalty=sp.L1(0.1), regenerate=False, propagate=propagate).errors["output"]
        for propagate in (True, False)
    ]
    assert errors[0] < errors[1]


def test_stages_cover_all_rows_in_the_order_of_evaluation() -> None:
    data = data_of(NET, inputs())
    options = sp.fit(NET, inputs(), propagate=True).options
    stages = stages_of(data, options)
    assert [stage.rows for stage in stages] == [slice(8, 18), slice(0, 8), slice(18, 22)]
    assert features_on(data, None) is data.features


# --- presets ----------------------------------------------------------------------------------------------------------


def test_options_beside_a_preset_win() -> None:
    chosen = sp.fit(NET, inputs(), preset="sparse", anchor=0.25, kappa=0.99, rounds=1).options
    assert (chosen.preset, chosen.anchor, chosen.kappa, chosen.sparsity) == ("sparse", 0.25, 0.99, 80.0)
    assert chosen.propagate
    assert chosen.ridge == pytest.approx(0.01 / np.sqrt(0.2))
    assert sp.fit(NET, inputs(), preset="sparse", ridge=0.5).options.ridge == 0.5


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_a_certified_well_posed_model(name: str) -> None:
    result = sp.fit(NET, inputs(), preset=name)
    assert result.rows.converged.all()
    assert result.perron_frobenius.upper < 1
    assert f"preset     {name}" in result.summary()
    assert all(len(line) <= 120 for line in result.summary().splitlines())


def test_the_paper_to_the_letter() -> None:
    result = sp.fit(NET, inputs(), preset="paper")
    by_hand = sp.fit(NET, inputs(), structure="dense", normalize="none", regenerate=False)
    np.testing.assert_array_equal(matrix(result.model), matrix(by_hand.model))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "fast"}, "preset: 'fast' is unknown; choose one of 'sparse', 'robust', 'certified', 'paper'"),
        ({"preset": 1}, "preset: 1 is unknown"),
        ({"propagate": True, "structure": "dense"}, "propagate: structure 'dense' has no order of layers"),
        ({"refine": True, "penalty": sp.NoPenalty()}, "refine: NoPenalty.* sparsity must say how many"),
        ({"refine": True, "penalty": sp.BasisPursuit()}, "refine: BasisPursuit matches exactly"),
        ({"refit": True, "penalty": sp.BasisPursuit()}, "refit: BasisPursuit matches exactly"),
        ({"refine": 1}, "refine must be True or False, got 1"),
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"anchor": 1.5}, "anchor must lie between 0 and 1, got 1.5"),
        ({"ridge": 1e300}, "ridge must be at most 1e"),
        ({"preset": "sparse", "sparsity": 100}, "sparsity is in per cent"),
        ({"preset": "sparse", "sparsity": "many"}, "sparsity"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(NET, inputs(20), **change)


def test_unreachable_sparsity_says_the_nearest() -> None:
    options: dict[str, Any] = {"penalty": sp.L1(0.1), "refine": True, "regenerate": False}
    kept = sp.fit(NET, inputs(), **options).model.nnz
    nearest = f"{100 * (1 - kept / WEIGHTS):.2f} %"
    with pytest.raises(sp.InputError, match=f"sparsity: 1 % cannot be reached.*the nearest is {nearest}"):
        sp.fit(NET, inputs(), sparsity=1, **options)
