"""A captured network is the network: outputs, states, layout, names, and nothing changed."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from network.networks import ACTIVATIONS, NETWORKS, Function, Residual, Scalar
from simplicit.implicit import Activation
from simplicit.network import TrainingModeWarning, capture, extract_states, from_torch, weight_count

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


SINGLE_PRECISION = (
    "mlp with bias",
    "nested sequential",
    "flattened image",
    "views",
    "changed views",
    "residual, shared modules",
    "dense connections",
    "constants",
    "computed weights",
    "recurrent",
)


def network(name, dtype=torch.float64):
    """A network with seeded weights, in evaluation mode, and 7 inputs."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = make().to(dtype).eval()
    return net, 2 * torch.randn(7, *shape, dtype=dtype)


@cache
def captured(name, dtype):
    net, u = network(name, dtype)
    return capture(net, u[:2])


def outputs(net, u):
    with torch.no_grad():
        return net(u.clone()).reshape(len(u), -1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float64) for name in NETWORKS),
        *((name, torch.float32) for name in SINGLE_PRECISION[:3]),
        *(pytest.param(name, torch.float32, marks=pytest.mark.slow) for name in SINGLE_PRECISION[3:]),
    ],
)
def test_outputs_and_states(name, dtype):
    net, u = network(name, dtype)
    model, states = captured(name, dtype).model, captured(name, dtype).states(u, batch_size=3)
    expected = outputs(net, u)
    scale = expected.abs().max().item()
    tolerance = TOLERANCE[dtype] * (1.0 if dtype == torch.float64 else max(scale, 1.0))

    assert model.dtype == states.Z.dtype == states.Y.dtype == expected.numpy().dtype
    assert np.abs(model.predict(u.numpy()) - expected.numpy()).max() <= tolerance
    assert np.abs(states.Y - expected.numpy()).max() <= tolerance
    np.testing.assert_array_equal(states.U, u.reshape(7, -1).numpy())
    Z = states.X @ model.A.T + states.U @ model.B.T + model.state_bias
    Y = states.X @ model.C.T + states.U @ model.D.T + model.output_bias
    large = max(1.0, np.abs(states.Z).max(initial=0.0))
    assert np.abs(Z - states.Z).max(initial=0.0) <= TOLERANCE[dtype] * large
    assert np.abs(Y - states.Y).max() <= TOLERANCE[dtype] * max(large, scale)
    for group in states.groups:
        columns = states.columns[group.name]
        phi = group.activation(torch.tensor(states.Z[:, columns])).numpy()
        # Not equal to the last bit: torch's vectorised functions depend on the memory layout.
        np.testing.assert_allclose(states.X[:, columns], phi, rtol=0.0, atol=8 * np.finfo(phi.dtype).eps)


@pytest.mark.parametrize("name", NETWORKS)
def test_last_group_first(name):
    model = captured(name, torch.float64).model
    position = {group.name: k for k, group in enumerate(model.groups)}
    assert all(position[row] < position[column] for row, column in model.blocks if {row, column} <= position.keys())


def test_blocks_are_the_weights():
    net, u = network("mlp with bias")
    one = capture(net, u)
    model = one.model
    assert [group.name for group in model.groups] == ["3", "1"]
    assert set(model.blocks) == {("1", "input"), ("3", "1"), ("output", "3")}
    assert model.input_shape == (5,)
    assert model.output_shape == (3,)
    for key, layer in {("1", "input"): net[0], ("3", "1"): net[2], ("output", "3"): net[4]}.items():
        np.testing.assert_array_equal(model.blocks[key].to_csr().toarray(), layer.weight.detach().numpy())
    np.testing.assert_array_equal(model.state_bias, torch.cat([net[2].bias, net[0].bias]).detach().numpy())
    np.testing.assert_array_equal(model.output_bias, net[4].bias.detach().numpy())


def test_pure_linear_has_no_states():
    net, u = network("pure linear")
    one = capture(net, u)
    assert one.model.n_states == 0
    assert one.model.D.shape == (2, 5)
    assert one.states(u).X.shape == (7, 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_parameters(name):
    parameters = {
        "leaky_relu": {"negative_slope": 0.2},
        "hardtanh": {"min_val": -0.5, "max_val": 0.75},
        "softplus": {"beta": 2.0, "threshold": 15.0},
        "elu": {"alpha": 0.7},
    }
    expected = Activation.of(name, **parameters.get(name, {}))
    activations = [group.activation for group in captured(name, torch.float64).model.groups]
    assert activations == [expected] * len(activations)
    assert len(activations) == 1 + len(ACTIVATIONS[name].functions)


def test_group_names():
    def names(net, width=5):
        return [group.name for group in reversed(from_torch(net.eval(), torch.zeros(2, width)).groups)]

    assert names(Residual()) == ["act", "act_1", "act_2"]
    assert names(ACTIVATIONS["relu"]) == ["act", "relu", "relu_1"]
    assert names(NETWORKS["nested sequential"][0]()) == ["2.0.1", "2.1.0"]
    reserved = nn.Sequential()
    reserved.add_module("input", nn.ReLU())
    reserved.add_module("output", nn.Tanh())
    reserved.add_module("relu_1", nn.ReLU())
    assert names(reserved) == ["input.relu", "output.tanh", "relu_1"]


def test_dead_branch_has_no_states():
    net, u = network("dead branch")
    one = capture(net, u)
    assert one.model.n_states == 4
    assert one.weight_count == 5 * 4 + 4 * 2
    assert weight_count(net) == 5 * 4 + 4 * 9 + 4 * 2


def test_weight_count():
    sizes = (784, 64, 32, 16, 10)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    assert weight_count(nn.Sequential(*layers).eval()) == 52_896
    assert weight_count(network("tied weight")[0]) == 15
    net, u = network("computed weights")
    assert weight_count(net) == capture(net, u).weight_count == 20 + 12


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_any_number_of_samples(samples):
    net, u = network("scalar output")
    one = capture(net, u[:samples])
    np.testing.assert_allclose(one.model.predict(u)[:, 0], net(u).detach(), atol=1e-12)
    # The last batch holds a single sample, which the network's squeeze would take for a dimension to drop.
    np.testing.assert_allclose(one.states(u, batch_size=3).Y[:, 0], net(u).detach(), atol=1e-12)


def test_inputs_of_every_kind_and_form():
    net, u = network("mixer")
    expected = outputs(net, u).numpy()
    one = capture(net, u.numpy())
    for inputs in (u, u.numpy(), u.reshape(7, -1), u.float().numpy(), u.clone().requires_grad_()):
        np.testing.assert_allclose(one.states(inputs).Y, expected, atol=1e-5)
    np.testing.assert_allclose(extract_states(net, u).Z, one.states(u, batch_size=2).Z, atol=1e-14)


def test_capture_is_independent_of_later_changes():
    net, u = network("mlp with bias")
    expected = outputs(net, u).numpy()
    one = capture(net, u)
    with torch.no_grad():
        net[0].weight.zero_()
    np.testing.assert_allclose(one.states(u).Y, expected, atol=1e-12)
    np.testing.assert_allclose(one.model.predict(u.numpy()), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["nested sequential", "constants", "computed weights", "changed input"])
def test_network_and_input_are_left_as_they_are(name):
    net, u = network(name)
    net.train()
    next(net.modules()).hidden_attribute = marker = object()
    flags = {path: module.training for path, module in net.named_modules()}
    before, given = copy.deepcopy(net.state_dict()), u.clone()
    with pytest.warns(TrainingModeWarning, match=r"evaluation mode"):
        one = capture(net, u)
    one.states(u)
    one.model.predict(u)
    assert {path: module.training for path, module in net.named_modules()} == flags
    assert net.hidden_attribute is marker
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(u, given)
    np.testing.assert_allclose(one.model.predict(u), outputs(net.eval(), u), atol=1e-10)


def test_training_mode_of_one_module_is_said_at_the_callers_line():
    net, u = network("nested sequential")
    net[2][0][2].train()
    for call in (lambda: from_torch(net, u), lambda: extract_states(net, u), lambda: weight_count(net)):
        with pytest.warns(TrainingModeWarning) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_exported_program_has_no_modes():
    net, u = network("nested sequential")
    batch = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(net, (u,), dynamic_shapes=(batch,)).module()
    assert program.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = capture(program, u)
    np.testing.assert_allclose(one.states(u).Y, outputs(net, u), atol=1e-12)
    np.testing.assert_allclose(one.model.predict(u), outputs(net, u), atol=1e-12)
    assert weight_count(program) == weight_count(net)


def test_branch_for_several_samples():
    net = Function(lambda u: 2 * u if u.shape[0] > 1 else 3 * u).eval()
    u = torch.rand(1, 4)
    np.testing.assert_array_equal(from_torch(net, u).predict(u), 2 * u)


def test_scalar_output_shape():
    net = Scalar().eval()
    assert from_torch(net, torch.zeros(2, 5)).output_shape == ()
