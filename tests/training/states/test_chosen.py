"""Untied rows on chosen states of a network."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, errors_of, mlp, row_norm_of, uniform
from network.image_networks import IMAGE_NETWORKS, randomised
from simplicit.network import Capture, capture
from simplicit.training.states.chosen import chosen_data

BLOCKS = ["0.2", "1.relu_1", "2.relu_1", "3.relu_1"]
RECIPE = sp.Matching(sp.L1(3e-2), structure="feedforward", states="blocks")


@cache
def resnet() -> Subject:
    """On images of a quarter of the size: its states are 64, 64, 32 and 32."""
    torch.manual_seed(0)
    net = randomised(IMAGE_NETWORKS["resnet, option A"][0]()).eval()
    return Subject(net, torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


@cache
def fitted() -> sp.FitResult:
    return resnet().fit(RECIPE)


def test_a_threshold_is_no_maximum() -> None:
    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(torch.relu(self.first(x) - 1.0) + 1.0)
            return result

    assert [group.name for group in capture(Threshold().eval(), torch.rand(2, 5)).block_groups] == ["relu"]


def test_states_of_some_groups_are_those_of_all() -> None:
    captured, inputs = resnet().captured, resnet().inputs
    some, every = captured.states(inputs, groups=captured.block_groups), captured.states(inputs)
    assert list(some.columns) == [group.name for group in captured.block_groups] == BLOCKS[::-1]
    for name, columns in some.columns.items():
        np.testing.assert_array_equal(some.X[:, columns], every.X[:, every.columns[name]])
        np.testing.assert_array_equal(some.Z[:, columns], every.Z[:, every.columns[name]])
    np.testing.assert_array_equal(some.Y, every.Y)


@pytest.mark.slow
def test_a_weak_penalty_matches_the_samples_and_is_certified() -> None:
    own = resnet()
    result = own.fit(replace(RECIPE, penalty=sp.L1(beta=1e-5)))
    model = result.model
    assert [group.name for group in model.groups][::-1] == BLOCKS
    assert result.rows.converged.all()
    assert len(result.rows) == model.n_states + model.n_outputs
    assert [layer.name for layer in result.layers] == [*BLOCKS, "output"]
    assert max(errors_of(result).values()) < 0.05
    assert float(sp.perron_frobenius(model)) == 0
    outputs = own.outputs(own.inputs)
    np.testing.assert_allclose(model.predict(own.inputs.flatten(1)), outputs, atol=0.05 * float(outputs.std()))
    assert "states blocks" in result.summary()


def test_groups_by_name() -> None:
    own = resnet()
    result = own.fit(replace(RECIPE, states=("3.relu_1",), sparsity=60), own.inputs[:40])
    assert [group.name for group in result.model.groups] == ["3.relu_1"]
    assert abs(result.sparsity - 60) <= 0.5


def test_dense_rows_are_under_the_ball() -> None:
    result = resnet().fit(sp.Matching(sp.L1(beta=1e-3), structure="dense", states=("2.relu_1", "3.relu_1")))
    assert result.rows.converged.all()
    assert row_norm_of(result) <= 0.99
    assert sp.perron_frobenius(result.model).upper < 1
    assert errors_of(result)["output"] < 0.3


def test_least_squares_is_the_same_on_chosen_and_on_all_states() -> None:
    """In a plain network all activations are cuts; without a penalty the units of the states make no difference."""
    own = Subject(mlp(5, 6, 4, 3), uniform(80, 5))
    recipe = sp.Matching(sp.NoPenalty(), structure="feedforward", regenerate=False)
    every, some = (own.fit(replace(recipe, states=states)).model for states in ("all", "blocks"))
    np.testing.assert_allclose(some.predict(own.inputs), every.predict(own.inputs), atol=1e-6)
    np.testing.assert_allclose(some.predict(own.inputs), own.outputs(own.inputs), atol=1e-6)


def test_propagation_goes_over_the_new_model_s_states() -> None:
    propagated = resnet().fit(replace(RECIPE, propagate=True))
    assert errors_of(propagated)["output"] < errors_of(fitted())["output"]
    assert (fitted().model.A != propagated.model.A).nnz


def test_the_refit_takes_the_shrinkage_away() -> None:
    refitted = resnet().fit(replace(RECIPE, refit=sp.Ridge(1e-6)))
    assert errors_of(refitted)["0.2"] < errors_of(fitted())["0.2"]
    assert refitted.rows.converged.all()


def test_what_is_not_homogeneous_keeps_its_units() -> None:
    make, shape = IMAGE_NETWORKS["lenet"]
    torch.manual_seed(0)
    own = Subject(randomised(make()).eval(), torch.rand(40, *shape, generator=torch.Generator().manual_seed(1)))
    data = chosen_data(own.captured, own.inputs, "blocks", bounded=False)
    states = own.captured.states(own.inputs, groups=data.model.groups)
    np.testing.assert_array_equal(data.features[:, : data.n_states], states.X)


def test_refused_before_the_start_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.machine.available_memory", lambda: 2**18)
    monkeypatch.setattr(Capture, "states", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(sp.InputError, match=r"states: .* rows x .* columns, .* need about .* choose fewer groups"):
        resnet().fit(replace(RECIPE, structure="dense"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": "block"}, "states must be 'all', 'blocks' or the names"),
        ({"states": ()}, "states must be"),
        ({"states": 3}, "states must be"),
        ({"states": np.array(["0.2", "1.relu"])}, "states must be"),
        ({"states": ("0.2", 4)}, "states must be"),
        ({"structure": "baseline"}, "structure: 'baseline' has no weights between chosen states"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.Matching(**{"states": "blocks", "structure": "feedforward"} | options)


def test_a_ball_that_keeps_no_model_well_posed() -> None:
    with pytest.raises(sp.InputError, match="kappa: structure 'dense' needs"):
        resnet().fit(replace(RECIPE, structure="dense", kappa=1.0))


def test_unknown_groups_are_named() -> None:
    with pytest.raises(sp.InputError, match=r"no group of states 'relu'; name some of '0.2', '1.relu'"):
        resnet().fit(replace(RECIPE, states=("relu",)))


def test_a_network_without_states() -> None:
    with pytest.raises(sp.InputError, match="no activations"):
        Subject(nn.Linear(4, 3).eval(), torch.rand(8, 4)).fit(RECIPE)


@pytest.mark.slow
def test_the_network_stays_as_it_is() -> None:
    own = resnet()
    before = copy.deepcopy(own.net.state_dict())
    sp.fit(own.net, own.inputs[:20], replace(RECIPE, states=("3.relu_1",)))
    assert all(torch.equal(before[name], value) for name, value in own.net.state_dict().items())


def test_it_is_no_network_any_more() -> None:
    with pytest.raises(sp.InputError, match="network: structure 'feedforward'"):
        fitted().network()
