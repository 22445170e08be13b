"""``fit`` on small networks: recovery, certificates, well-posedness, units, bad input."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import simplicit as sp

Array = npt.NDArray[np.float64]
STRUCTURES = ["baseline", "feedforward", "no-self", "dense"]


def mlp(*sizes: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double().eval()


def inputs(m: int = 120, p: int = 12, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random((m, p))


def outputs(net: nn.Module, U: Array) -> Array:
    with torch.no_grad():
        result: Array = net(torch.from_numpy(U)).numpy()
    return result


NET = mlp(12, 10, 8, 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
def test_a_weak_penalty_recovers_the_network(structure: str, bias: bool) -> None:
    net = mlp(12, 10, 8, 4, bias=bias)
    result = sp.fit(net, inputs(400), penalty=sp.L1(1e-7), kappa=None, structure=structure)
    fresh = inputs(50, seed=9)
    np.testing.assert_allclose(result.model.predict(fresh), outputs(net, fresh), atol=1e-4)
    assert result.model.state_bias.any() == bias


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_gives_a_certified_well_posed_model(structure: str) -> None:
    result = sp.fit(NET, inputs(), structure=structure, penalty=sp.L1(0.02))
    assert result.rows.converged.all()
    assert (result.rows.relative_gap <= 1e-6).all()
    assert abs(result.model.A).sum(axis=1).max() <= 0.99
    assert result.row_norm <= 0.99
    assert result.perron_frobenius.upper < 1
    solved = sp.equilibrium(result.model, inputs(7, seed=4))
    assert solved.method == ("substitution" if structure in ("baseline", "feedforward") else "picard")
    assert np.isfinite(result.model.predict(inputs(7, seed=4))).all()
    assert len(result.rows) == 18 + 4
    assert result.rows.nnz.sum() == result.model.nnz


def test_baseline_structure_keeps_to_the_weights_of_the_network() -> None:
    result = sp.fit(NET, inputs(), penalty=sp.L1(0.01))
    model = sp.rescale(sp.from_torch(NET, inputs(2)))
    for name in "ABCD":
        assert not (abs(getattr(result.model, name)).toarray() * (getattr(model, name).toarray() == 0)).any()


def test_states_of_the_units_of_theorem_2_4() -> None:
    """The trained states are the baseline's, divided by s: the same outputs from well-scaled states."""
    result = sp.fit(NET, inputs(400), penalty=sp.L1(1e-7), kappa=None)
    model = sp.from_torch(NET, inputs(2))
    s = model_scale(model)
    X = sp.equilibrium(result.model, inputs(5, seed=3)).states
    np.testing.assert_allclose(X * s, sp.extract_states(NET, inputs(5, seed=3)).X, atol=1e-3)


def model_scale(model: sp.ImplicitModel) -> Array:
    A = abs(model.A.toarray())
    return np.linalg.solve(np.eye(len(A)) - A, np.ones(len(A)))


@pytest.mark.parametrize("target", [20, 50, 80, 97.5])
def test_wanted_sparsity_is_met_within_half_a_point(target: float) -> None:
    net = mlp(30, 40, 20, 5)
    result = sp.fit(net, inputs(200, 30), sparsity=target)
    assert abs(result.sparsity - target) <= 0.5
    assert result.sparsity == pytest.approx(100 * (1 - result.model.nnz / sp.weight_count(net)))
    assert result.rows.converged.all()
    assert result.trials >= 1


def test_more_sparsity_costs_fidelity() -> None:
    net = mlp(30, 40, 20, 5)
    errors = [sp.fit(net, inputs(200, 30), sparsity=target).errors["output"] for target in (20, 60, 95)]
    assert errors == sorted(errors)


def test_regenerated_states_fit_the_outputs_better() -> None:
    net = mlp(30, 40, 20, 5)
    errors = [
        sp.fit(net, inputs(200, 30), penalty=sp.L1(0.05), regenerate=regenerate).errors["output"]
        for regenerate in (True, False)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("normalize", ["targets", "both", "none"])
def test_normalisations(normalize: str) -> None:
    result = sp.fit(NET, inputs(), normalize=normalize, penalty=sp.L1(0.01))
    assert result.rows.converged.all()


def test_targets_make_the_strength_independent_of_the_units_of_the_outputs() -> None:
    small, large = mlp(12, 10, 8, 4), mlp(12, 10, 8, 4)
    with torch.no_grad():
        large[4].weight *= 1000
        large[4].bias *= 1000
    a, b = (sp.fit(net, inputs(), penalty=sp.L1(0.05)) for net in (small, large))
    np.testing.assert_array_equal(a.rows.nnz, b.rows.nnz)
    np.testing.assert_allclose(1000 * a.model.C.toarray(), b.model.C.toarray(), rtol=1e-6)


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus])
@pytest.mark.parametrize("structure", ["baseline", "dense"])
def test_other_activations(activation: type[nn.Module], structure: str) -> None:
    net = mlp(12, 10, 8, 4, activation=activation)
    kappa = 0.8  # below 1/slope of GELU
    result = sp.fit(net, inputs(), structure=structure, kappa=kappa, penalty=sp.L1(0.01))
    assert result.rescaled == (activation is nn.LeakyReLU)
    assert result.rows.converged.all()
    assert result.perron_frobenius.upper < 1
    assert np.isfinite(result.model.predict(inputs(5))).all()


def test_a_linear_network_has_only_outputs() -> None:
    net = nn.Sequential(nn.Linear(12, 3)).double().eval()
    result = sp.fit(net, inputs(), penalty=sp.L1(1e-8))
    assert result.model.n_states == 0
    np.testing.assert_allclose(result.model.predict(inputs(5)), outputs(net, inputs(5)), atol=1e-4)
    assert "0 states" in result.summary()


def test_executors_and_repetition_give_the_same_model() -> None:
    results = [sp.fit(NET, inputs(), sparsity=50, executor=executor) for executor in ("serial", "threads", "threads")]
    for result in results[1:]:
        for name in "ABCD":
            np.testing.assert_array_equal(
                getattr(result.model, name).toarray(), getattr(results[0].model, name).toarray()
            )


def test_float32_networks_images_and_tensors() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    images = torch.rand(50, 1, 3, 4)
    result = sp.fit(net, images, penalty=sp.L1(1e-6))
    assert result.model.input_shape == (1, 3, 4)
    assert result.model.predict(images).shape == (50, 3)
    np.testing.assert_allclose(result.model.predict(images).numpy(), net(images).detach().numpy(), atol=2e-2)


def test_dead_states_and_constant_inputs_do_no_harm() -> None:
    net = mlp(12, 10, 8, 4)
    with torch.no_grad():
        net[0].bias[3] = -1e3  # never active
        net[2].weight[2] = 0.0
        net[2].bias[2] = 0.0
    U = inputs()
    U[:, 5] = 0.0
    result = sp.fit(net, U, penalty=sp.L1(0.01), sparsity=60)
    assert result.rows.converged.all()
    assert np.isfinite(result.model.predict(U)).all()


def test_one_sample() -> None:
    result = sp.fit(NET, inputs(1), penalty=sp.L1(1e-3))
    assert result.rows.converged.all()
    assert result.n_samples == 1


def test_summary_and_figures() -> None:
    result = sp.fit(NET, inputs(), sparsity=50)
    text = result.summary()
    assert len(text.splitlines()) <= 24
    assert all(len(line) <= 120 for line in text.splitlines())
    for part in (
        "22 of 22 certified",
        "structure baseline",
        f"{result.sparsity:.1f} % sparse",
        "lambda_pf 0",
        "output",
    ):
        assert part in text
    figures = json.loads(json.dumps(result.figures()))
    assert figures["rows_certified"] == 22
    assert figures["perron_frobenius"]["upper"] == 0


def test_progress_names_the_stage() -> None:
    seen: list[tuple[str, int, int]] = []
    sp.fit(NET, inputs(), progress=lambda state: seen.append((state.stage, state.done, state.total)))
    assert ("state rows", 18, 18) in seen
    assert seen[-1] == ("output rows", 4, 4)


def test_the_network_is_left_as_it_was() -> None:
    net = mlp(12, 10, 8, 4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    sp.fit(net, inputs())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda1": 0.0}, "lambda1 must be positive and finite"),
        ({"lambda2": float("nan")}, "lambda2"),
        ({"kappa": 0.0}, "kappa must be positive and finite"),
        ({"kappa": -1.0}, "kappa"),
        ({"structure": "dense", "kappa": 1.0}, "structure 'dense' needs 0 < kappa < 1"),
        ({"structure": "no-self", "kappa": None}, "structure 'no-self' needs 0 < kappa < 1"),
        ({"structure": ["dense"]}, "structure: .* is unknown"),
        ({"penalty": 1e-3}, r"penalty: expected a penalty such as simplicit\.L1"),
        ({"structure": "full"}, "structure: 'full' is unknown; choose one of 'baseline', 'feedforward'"),
        ({"normalize": "rows"}, "normalize: 'rows' is unknown"),
        ({"sparsity": 100}, "sparsity is in per cent"),
        ({"sparsity": -1}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"tol": 0}, "tol"),
        ({"executor": "moon"}, "executor"),
        ({"penalty": sp.L1(-1.0)}, "beta must be finite and >= 0"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(NET, inputs(20), **change)


def test_kappa_of_one_or_more_is_fine_where_well_posedness_does_not_need_it() -> None:
    assert sp.fit(NET, inputs(20), kappa=5.0).perron_frobenius.upper == 0


def test_steep_activations_need_a_smaller_kappa() -> None:
    with pytest.raises(sp.InputError, match=r"steepest activation has slope 1\.129"):
        sp.fit(mlp(12, 6, 3, activation=nn.GELU), inputs(20), structure="dense", kappa=0.95)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 12)), r"inputs must have shape .* m >= 1, got \(0, 12\)"),
        (np.zeros((5, 11)), "11"),
        (np.where(np.arange(60).reshape(5, 12) == 30, np.nan, 0.5), "nan|finite"),
        (np.where(np.arange(60).reshape(5, 12) == 30, np.inf, 0.5), "inf|finite"),
        (None, "inputs must be a NumPy array or a tensor, got NoneType"),
    ],
)
def test_bad_inputs(bad: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(NET, bad)


def test_unreachable_sparsity_says_the_nearest() -> None:
    # 3 samples allow at most 3 (and one for the ball) non-zeros a row: never as little as 5 % sparse.
    with pytest.raises(sp.InputError, match=r"sparsity: 5 % cannot be reached.*nearest found is"):
        sp.fit(mlp(30, 40, 20, 5, bias=False), inputs(3, 30), sparsity=5)


def test_training_mode_is_said_and_evaluated_without() -> None:
    net = nn.Sequential(nn.Linear(12, 6), nn.Dropout(0.9), nn.ReLU(), nn.Linear(6, 3)).double().train()
    with pytest.warns(sp.TrainingModeWarning):
        result = sp.fit(net, inputs(200), penalty=sp.L1(1e-7), kappa=None)
    net.eval()
    np.testing.assert_allclose(result.model.predict(inputs(5)), outputs(net, inputs(5)), atol=1e-3)
