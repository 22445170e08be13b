"""``Matching``: recovery, certificates, well-posedness, units, refits and propagation on small networks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, errors_of, matrix, mlp, row_norm_of, uniform
from simplicit.progress import Progress
from simplicit.training.recipes import RECIPES
from simplicit.training.states import STRUCTURES, StateData, state_data
from simplicit.training.units import NORMALIZATIONS

Array = npt.NDArray[np.float64]

NET = Subject(mlp(12, 10, 8, 4), uniform())
UNBIASED = Subject(mlp(12, 10, 8, 4, bias=False), uniform(150))
WIDE = Subject(mlp(20, 24, 12, 5), uniform(120, 20))
#: The default penalty under the ball of the paper.
BALL = sp.Matching(kappa=0.99)


def data_of(subject: Subject, U: Array) -> StateData:
    captured = subject.captured
    return state_data(captured.model, captured.states(U), captured.weight_count)


@pytest.mark.parametrize("subject", [NET, UNBIASED], ids=["bias", "no bias"])
@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
def test_a_weak_penalty_recovers_the_network(structure: str, subject: Subject) -> None:
    result = subject.fit(sp.Matching(sp.L1(1e-7), structure=structure), uniform(400))
    fresh = uniform(50, seed=9)
    np.testing.assert_allclose(result.model.predict(fresh), subject.outputs(fresh), atol=1e-4)
    assert result.model.state_bias.any() == (subject is NET)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_gives_a_certified_well_posed_model(structure: str) -> None:
    result = NET.fit(sp.Matching(sp.L1(0.02), structure=structure, kappa=0.99))
    assert result.rows.converged.all()
    assert (result.rows.relative_gap <= 1e-6).all()
    assert row_norm_of(result) <= 0.99
    assert sp.perron_frobenius(result.model).upper < 1
    solved = sp.equilibrium(result.model, uniform(7, seed=4))
    assert solved.method == ("substitution" if structure in ("baseline", "feedforward") else "picard")
    assert np.isfinite(result.model.predict(uniform(7, seed=4))).all()
    assert len(result.rows) == 18 + 4
    assert result.rows.nnz.sum() == result.model.nnz


@pytest.mark.parametrize("structure", ["dense", "no-self"])
def test_structures_that_need_a_ball_have_one(structure: str) -> None:
    chosen, given = (NET.fit(sp.Matching(sp.L1(1e-3), structure=structure, kappa=kappa)) for kappa in (None, 0.99))
    np.testing.assert_array_equal(matrix(chosen.model), matrix(given.model))
    assert row_norm_of(chosen) <= 0.99


@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
def test_structures_that_need_no_ball_have_none(structure: str) -> None:
    free, bound = (NET.fit(sp.Matching(sp.L1(1e-7), structure=structure, kappa=kappa)) for kappa in (None, 0.05))
    assert not free.rows.multiplier.any()
    assert bound.rows.multiplier.any()
    assert row_norm_of(bound) <= 0.05 < row_norm_of(free)


def test_baseline_structure_keeps_to_the_weights_of_the_network() -> None:
    result = NET.fit(sp.Matching(sp.L1(0.01), kappa=0.99))
    model = sp.rescale(NET.captured.model)
    for name in "ABCD":
        assert not (abs(getattr(result.model, name)).toarray() * (getattr(model, name).toarray() == 0)).any()


def test_states_of_the_units_of_theorem_2_4() -> None:
    """The trained states are the baseline's, divided by s: the same outputs from well-scaled states."""
    result = NET.fit(sp.Matching(sp.L1(1e-7)), uniform(400))
    A = abs(NET.captured.model.A.toarray())
    s = np.linalg.solve(np.eye(len(A)) - A, np.ones(len(A)))
    X = sp.equilibrium(result.model, uniform(5, seed=3)).states
    np.testing.assert_allclose(X * s, NET.captured.states(uniform(5, seed=3)).X, atol=1e-3)


@cache
def at_sparsity(target: float) -> sp.FitResult:
    return WIDE.fit(replace(BALL, sparsity=target))


@pytest.mark.slow
@pytest.mark.parametrize("target", [20, 50, 80, 97.5])
def test_wanted_sparsity_is_met_within_half_a_point(target: float) -> None:
    result = at_sparsity(target)
    assert abs(result.sparsity - target) <= 0.5
    assert result.sparsity == pytest.approx(100 * (1 - result.model.nnz / sp.weight_count(WIDE.net)))
    assert result.rows.converged.all()
    assert result.trials >= 1


def test_more_sparsity_costs_fidelity() -> None:
    errors = [errors_of(at_sparsity(target))["output"] for target in (20, 80)]
    assert errors == sorted(errors)


def test_unreachable_sparsity_says_the_nearest() -> None:
    # 3 samples allow at most 3 (and one for the ball) non-zeros a row: never as little as 5 % sparse.
    subject = Subject(mlp(20, 24, 12, 5, bias=False), uniform(3, 20))
    with pytest.raises(sp.InputError, match=r"sparsity: 5 % cannot be reached.*nearest found is"):
        subject.fit(replace(BALL, sparsity=5))


def test_regenerated_states_fit_the_outputs_better() -> None:
    recipe = sp.Matching(sp.L1(0.05), kappa=0.99)
    errors = [errors_of(WIDE.fit(replace(recipe, regenerate=regenerate)))["output"] for regenerate in (True, False)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_normalisations(normalize: str) -> None:
    result = NET.fit(sp.Matching(sp.L1(0.01), normalize=normalize, kappa=0.99))
    assert result.rows.converged.all()


def test_targets_make_the_strength_independent_of_the_units_of_the_outputs() -> None:
    large = mlp(12, 10, 8, 4)
    with torch.no_grad():
        large[4].weight *= 1000
        large[4].bias *= 1000
    a, b = (subject.fit(sp.Matching(sp.L1(0.05), kappa=0.99)) for subject in (NET, Subject(large, uniform())))
    np.testing.assert_array_equal(a.rows.nnz, b.rows.nnz)
    np.testing.assert_allclose(1000 * a.model.C.toarray(), b.model.C.toarray(), rtol=1e-6)


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus])
def test_other_activations(activation: type[nn.Module]) -> None:
    subject = Subject(mlp(12, 10, 8, 4, activation=activation), uniform())
    for structure in ("baseline", "dense"):
        # 0.8 is below 1/slope of GELU.
        result = subject.fit(sp.Matching(sp.L1(0.01), structure=structure, kappa=0.8))
        assert result.figures()["rescaled"] == (activation is nn.LeakyReLU)
        assert result.rows.converged.all()
        assert sp.perron_frobenius(result.model).upper < 1
        assert np.isfinite(result.model.predict(uniform(5))).all()


def test_steep_activations_need_a_smaller_kappa() -> None:
    subject = Subject(mlp(12, 6, 3, activation=nn.GELU), uniform(20))
    with pytest.raises(sp.InputError, match=r"steepest activation has slope 1\.129"):
        subject.fit(sp.Matching(structure="dense", kappa=0.95))
    assert row_norm_of(subject.fit(sp.Matching(structure="dense"))) <= 0.99 / 1.128


def test_kappa_of_one_or_more_is_fine_where_well_posedness_does_not_need_it() -> None:
    result = NET.fit(sp.Matching(kappa=5.0), uniform(20))
    assert sp.perron_frobenius(result.model).upper == 0


def test_a_linear_network_has_only_outputs() -> None:
    subject = Subject(nn.Sequential(nn.Linear(12, 3)).double().eval(), uniform())
    result = subject.fit(sp.Matching(sp.L1(1e-8)))
    assert result.model.n_states == 0
    assert [layer.name for layer in result.layers] == ["output"]
    np.testing.assert_allclose(result.model.predict(uniform(5)), subject.outputs(uniform(5)), atol=1e-4)


def test_dead_states_and_constant_inputs_do_no_harm() -> None:
    net = mlp(12, 10, 8, 4)
    with torch.no_grad():
        net[0].bias[3] = -1e3  # never active
        net[2].weight[2] = 0.0
        net[2].bias[2] = 0.0
    U = uniform()
    U[:, 5] = 0.0
    result = Subject(net, U).fit(sp.Matching(sp.L1(0.01), sparsity=60, kappa=0.99))
    assert result.rows.converged.all()
    assert np.isfinite(result.model.predict(U)).all()


def test_one_sample() -> None:
    result = NET.fit(BALL, uniform(1))
    assert result.rows.converged.all()
    assert result.n_samples == 1


def test_progress_names_the_stage() -> None:
    seen: list[tuple[str, int, int]] = []

    def hear(state: Progress) -> None:
        seen.append((" > ".join(one.stage for one in state.chain), state.done, state.total))

    NET.fit(BALL, progress=hear)
    assert ("fitting > in state rows > rows", 18, 18) in seen
    assert ("fitting > in output rows > rows", 4, 4) in seen
    assert seen[-1] == ("fitting", 2, 2)
    seen.clear()
    NET.fit(replace(BALL, sparsity=60), progress=hear)
    trials = {f"strength, trial {number} > fitting > in output rows > rows" for number in (1, 2)}
    assert trials <= {stage for stage, *_ in seen}


def test_the_paper_to_the_letter() -> None:
    by_hand = UNBIASED.fit(sp.Matching(structure="dense", kappa=0.99, normalize="none", regenerate=False))
    for recipe in (sp.Matching.paper(), RECIPES["paper"]):
        result = UNBIASED.fit(recipe)
        np.testing.assert_array_equal(matrix(result.model), matrix(by_hand.model))
    assert by_hand.rows.converged.all()
    assert row_norm_of(by_hand) <= 0.99


# --- refit ------------------------------------------------------------------------------------------------------------


def test_a_refit_is_least_squares_on_the_support() -> None:
    U = uniform(300)
    result = UNBIASED.fit(sp.Matching(sp.L1(0.02), refit=sp.Ridge(0.0), regenerate=False), U)
    data, M = data_of(UNBIASED, U), matrix(result.model)
    for i in (0, 5, 17, 20):
        support = np.flatnonzero(M[i])
        expected = np.linalg.lstsq(data.features[:, support], data.targets[:, i], rcond=None)[0]
        np.testing.assert_allclose(M[i, support], expected, rtol=1e-4, atol=1e-7)
    assert result.ridge == sp.Ridge(0.0)


@pytest.mark.parametrize("anchor", [0.0, 0.7])
def test_a_refit_under_the_ball_is_that_of_cvxpy(anchor: float) -> None:
    U, recipe = uniform(100), sp.Matching(sp.L1(0.01), kappa=0.05, regenerate=False)
    result = UNBIASED.fit(replace(recipe, refit=sp.Ridge(0.3, anchor)), U, tol=1e-9)
    data, M = data_of(UNBIASED, U), matrix(result.model)
    n, weights = data.n_states, matrix(data.model)
    support = matrix(UNBIASED.fit(recipe, U, tol=1e-9).model) != 0
    columns = np.flatnonzero((weights != 0)[:n].any(axis=0))
    delta = 0.3 * np.square(data.features[:, columns]).sum(axis=0).mean()
    row = int(np.argmax(result.rows.multiplier[:n]))
    assert result.rows.multiplier[row] > 0
    w = cp.Variable(data.n_columns)
    loss = cp.sum_squares(data.targets[:, row] - data.features @ w) + delta * cp.sum_squares(w - anchor * weights[row])
    cp.Problem(cp.Minimize(loss), [cp.norm1(w[:n]) <= 0.05, w[~support[row]] == 0]).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(M[row], w.value, atol=1e-5)


# --- propagate --------------------------------------------------------------------------------------------------------


def test_each_layer_is_fitted_on_the_states_of_the_layers_just_trained() -> None:
    U = uniform(300)
    result = UNBIASED.fit(sp.Matching(sp.L1(0.05), propagate=True), U)
    data = data_of(UNBIASED, U)
    features = np.hstack([sp.equilibrium(result.model, U).states, U])  # layers see only those before them
    structure, M = matrix(data.model) != 0, matrix(result.model)
    for rows in data.layers.values():
        sigma = np.sqrt(np.mean(np.square(data.targets[:, rows])))
        weights = sigma * np.r_[np.full(data.n_states, 0.1), np.ones(data.n_columns - data.n_states)]
        solution = sp.solve_rows(
            features, data.targets[:, rows], penalty=sp.L1(0.05, weights), weight=0.1, support=structure[rows]
        )
        np.testing.assert_allclose(M[rows], solution.coefficients.toarray(), atol=1e-5)


def test_propagation_brings_the_outputs_nearer() -> None:
    recipe = sp.Matching(sp.L1(0.1), regenerate=False)
    errors = [
        errors_of(UNBIASED.fit(replace(recipe, propagate=propagate), uniform(400)))["output"]
        for propagate in (True, False)
    ]
    assert errors[0] < errors[1]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda1": 0.0}, "lambda1 must be positive and finite"),
        ({"lambda2": float("nan")}, "lambda2"),
        ({"kappa": 0.0}, "kappa must be positive and finite"),
        ({"kappa": -1.0}, "kappa"),
        ({"structure": ["dense"]}, "structure: .* is unknown"),
        ({"penalty": 1e-3}, r"penalty: expected a penalty such as simplicit\.L1"),
        ({"penalty": sp.L1}, r"penalty: expected a penalty such as simplicit\.L1"),
        ({"structure": "full"}, "structure: 'full' is unknown; choose one of 'baseline', 'feedforward'"),
        ({"normalize": "rows"}, "normalize: 'rows' is unknown"),
        ({"sparsity": 100}, "sparsity is in per cent"),
        ({"sparsity": 0.8}, r"sparsity is in per cent, got 0\.8; did you mean 80\?"),
        ({"sparsity": -1}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
        ({"regenerate": 1}, "regenerate must be True or False, got 1"),
        ({"propagate": True, "structure": "dense"}, "propagate: the structure 'dense' has no order of layers"),
        ({"refit": sp.Ridge(), "penalty": sp.BasisPursuit()}, "refit: BasisPursuit matches exactly"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.Matching(**change)


def test_a_ball_that_keeps_no_model_well_posed() -> None:
    with pytest.raises(sp.InputError, match="structure 'dense' needs 0 < kappa < 1"):
        NET.fit(sp.Matching(structure="dense", kappa=1.0))
