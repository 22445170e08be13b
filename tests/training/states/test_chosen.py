"""Untied rows on chosen states of a network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
import simplicit.training.states.chosen as chosen
from network.image_networks import IMAGE_NETWORKS, randomised
from simplicit.network import capture
from simplicit.training.options import FitOptions

LAST = {
    "vgg": ["0.2", "2.2", "3.2", "7"],
    "lenet": ["relu", "relu_5", "tanh"],
    "resnet, option A": ["0.2", "1.relu_1", "2.relu_1", "3.relu_1"],
    "resnet, 1 x 1 shortcuts": ["0.2", "1.relu_1", "2.relu_1", "3.relu_1"],
    "resnet, activation before": ["1.relu_1", "2.relu_1", "5"],
    "mixer": ["tokens.1", "channels.1"],
    "inception": ["relu_4"],
    "temporal": ["relu", "relu_1", "relu_2"],
}


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = IMAGE_NETWORKS[name]
    torch.manual_seed(0)
    return randomised(make()).eval(), shape


def resnet(m: int = 60) -> tuple[nn.Module, torch.Tensor]:
    net, shape = network("resnet, option A")
    return net, torch.rand(m, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAST)
def test_the_last_activation_of_each_block(name: str) -> None:
    net, shape = network(name)
    groups = capture(net, torch.rand(2, *shape)).block_groups
    assert [group.name for group in groups][::-1] == LAST[name]


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_every_network_has_some(name: str) -> None:
    net, shape = network(name)
    captured = capture(net, torch.rand(2, *shape))
    kept = [group.name for group in captured.block_groups]
    assert kept
    assert kept == [group.name for group in captured.model.groups if group.name in kept]


@pytest.mark.parametrize("name", ["vgg", "resnet, option A", "resnet, 1 x 1 shortcuts"])
def test_the_last_activations_separate_the_network(name: str) -> None:
    """No block of M leads past one of them: what comes later is a function of it alone."""
    net, shape = network(name)
    captured = capture(net, torch.rand(2, *shape))
    order = ["input", *(group.name for group in reversed(captured.model.groups)), "output"]
    for group in captured.block_groups:
        place = order.index(group.name)
        past = [pair for pair in captured.model.blocks if order.index(pair[0]) > place > order.index(pair[1])]
        assert not past


def test_a_threshold_is_no_maximum() -> None:
    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x) - 1.0) + 1.0)

    assert [group.name for group in capture(Threshold().eval(), torch.rand(2, 5)).block_groups] == ["relu"]


def test_states_of_some_groups_are_those_of_all() -> None:
    net, inputs = resnet()
    captured = capture(net, inputs)
    some, every = captured.states(inputs, groups=captured.block_groups), captured.states(inputs)
    assert list(some.columns) == [group.name for group in captured.block_groups]
    for name, columns in some.columns.items():
        np.testing.assert_array_equal(some.X[:, columns], every.X[:, every.columns[name]])
        np.testing.assert_array_equal(some.Z[:, columns], every.Z[:, every.columns[name]])
    np.testing.assert_array_equal(some.Y, every.Y)


def test_a_weak_penalty_matches_the_samples_and_is_certified() -> None:
    net, inputs = resnet()
    result = sp.fit(net, inputs, states="blocks", structure="feedforward", kappa=None, penalty=sp.L1(beta=1e-5))
    model = result.model
    assert [group.name for group in model.groups][::-1] == LAST["resnet, option A"]
    assert result.rows.converged.all()
    assert len(result.rows) == model.n_states + model.n_outputs
    assert max(result.errors.values()) < 0.05
    assert float(sp.perron_frobenius(model)) == 0
    with torch.no_grad():
        np.testing.assert_allclose(model.predict(inputs.flatten(1)), net(inputs), atol=0.05 * float(net(inputs).std()))
    assert "chosen groups" in result.summary()


def test_groups_by_name() -> None:
    net, inputs = resnet(40)
    result = sp.fit(net, inputs, states=["3.relu_1"], structure="feedforward", kappa=None, sparsity=60)
    assert [group.name for group in result.model.groups] == ["3.relu_1"]
    assert abs(result.sparsity - 60) <= 0.5


def test_dense_rows_are_under_the_ball() -> None:
    net, inputs = resnet(40)
    result = sp.fit(net, inputs, states=("2.relu_1", "3.relu_1"), structure="dense", penalty=sp.L1(beta=1e-3))
    assert result.rows.converged.all()
    assert result.row_norm <= 0.99
    assert result.perron_frobenius.upper < 1
    assert result.errors["output"] < 0.3


def test_least_squares_is_the_same_on_chosen_and_on_all_states() -> None:
    """In a plain network all activations are cuts; without a penalty the units of the states make no difference."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    inputs = torch.rand(80, 5, dtype=torch.float64)
    options = {"structure": "feedforward", "kappa": None, "penalty": sp.NoPenalty(), "regenerate": False}
    every, some = (sp.fit(net, inputs, states=states, **options) for states in ("all", "blocks"))
    np.testing.assert_allclose(some.model.predict(inputs), every.model.predict(inputs), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(some.model.predict(inputs), net(inputs), atol=1e-6)


def test_propagation_goes_over_the_new_model_s_states() -> None:
    net, inputs = resnet(40)
    options = {"states": "blocks", "structure": "feedforward", "kappa": None, "penalty": sp.L1(beta=3e-2)}
    plain, propagated = (sp.fit(net, inputs, propagate=propagate, **options) for propagate in (False, True))
    assert propagated.errors["output"] < plain.errors["output"]
    assert (plain.model.A != propagated.model.A).nnz


def test_the_refit_takes_the_shrinkage_away() -> None:
    net, inputs = resnet(40)
    options = {"states": "blocks", "structure": "feedforward", "kappa": None, "penalty": sp.L1(beta=3e-2)}
    shrunk, refitted = (sp.fit(net, inputs, refit=refit, ridge=1e-6, **options) for refit in (False, True))
    assert refitted.errors["0.2"] < shrunk.errors["0.2"]
    assert refitted.rows.converged.all()


def test_what_is_not_homogeneous_keeps_its_units() -> None:
    net, shape = network("lenet")
    inputs = torch.rand(40, *shape, generator=torch.Generator().manual_seed(1))
    data = chosen.chosen_data(
        capture(net, inputs), inputs, FitOptions(states="blocks", structure="feedforward", kappa=None)
    )
    states = capture(net, inputs).states(inputs, groups=data.model.groups)
    np.testing.assert_array_equal(data.features[:, : data.n_states], states.X)


def test_refused_before_the_start_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs = resnet()
    monkeypatch.setattr(chosen, "available_memory", lambda: 2**20)
    monkeypatch.setattr(chosen.Capture, "states", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(sp.InputError, match=r"states: .* rows x .* columns need about .* GiB .* choose fewer groups"):
        sp.fit(net, inputs, states="blocks", structure="dense")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"states": "block"}, "states must be 'all', 'blocks' or the names"),
        ({"states": []}, "states must be"),
        ({"states": 3}, "states must be"),
        ({"states": np.array(["0.2", "1.relu"])}, "states must be"),
        ({"states": ["0.2", 4]}, "states must be"),
        ({"states": ["relu"]}, "no group of states 'relu'; name some of '0.2', '1.relu'"),
        ({"structure": "baseline"}, "structure: got 'baseline'.*no weights between"),
        ({"refine": True}, "refine: got True"),
        ({"anchor": 0.5}, "anchor: got 0.5"),
        ({"structure": "dense", "kappa": None}, "kappa: structure 'dense' needs"),
        ({"preset": "sparse"}, "refine: got True"),
    ],
)
def test_bad_options(options: dict[str, object], told: str) -> None:
    net, inputs = resnet(8)
    with pytest.raises(sp.InputError, match=told):
        sp.fit(net, inputs, **{"states": "blocks", "structure": "feedforward", "kappa": None} | options)


def test_a_network_without_states() -> None:
    with pytest.raises(sp.InputError, match="no activations"):
        sp.fit(nn.Linear(4, 3).eval(), torch.rand(8, 4), states="blocks", structure="feedforward")


def test_the_network_stays_as_it_is() -> None:
    net, inputs = resnet(20)
    before = copy.deepcopy(net.state_dict())
    sp.fit(net, inputs, states="blocks", structure="feedforward", kappa=None)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_it_is_no_network_any_more() -> None:
    net, inputs = resnet(20)
    result = sp.fit(net, inputs, states="blocks", structure="feedforward", kappa=None)
    with pytest.raises(sp.InputError, match="to_baseline: structure 'feedforward'"):
        result.to_baseline()
