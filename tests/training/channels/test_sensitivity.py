"""How far errors move the outputs, by channels and by positions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from fitting import Subject
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.training.channels import channel_layers
from simplicit.training.channels.moments import sums_of
from simplicit.training.channels.samples import batches_of, samples_of
from simplicit.training.channels.sensitivity import Sensitivity, output_sensitivities
from simplicit.training.channels.statistics import Gathering
from simplicit.training.channels.walk import Walk
from tied_nets import subject


def found_for(own: Subject, size: int = 50) -> list[Sensitivity]:
    return list(output_sensitivities(own.graph, channel_layers(own.graph), batches_of(own.inputs, size)).values())


def pooled(outputs: int) -> nn.Sequential:
    """A convolution to 27 values, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, outputs)).double().eval()


def positions(one: Sensitivity) -> Tensor:
    assert one.positions is not None
    return torch.cat([*one.positions])


class Strip(nn.Module):
    """A convolution of which the output sees the first columns alone."""

    def __init__(self, seen: int = 4) -> None:
        super().__init__()
        self.conv, self.linear, self.seen = nn.Conv2d(2, 4, 1), nn.Linear(4, 3), seen

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.conv(x)[..., : self.seen]
        out: Tensor = self.linear(functional.relu(seen).mean((2, 3)))
        return out


def test_it_is_the_mean_squared_derivative() -> None:
    own = subject("plain")
    net, found = own.net, found_for(own, 7)
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        middle = net[:3](own.inputs)
    offset = torch.zeros(1, 6, 3, 3, dtype=torch.float64)

    def output(change: Tensor, x: Tensor) -> Tensor:
        result: Tensor = net[4:](net[3](x[None]) + change)[0]
        return result

    squares = [
        torch.autograd.functional.jacobian(lambda change, x=x: output(change, x), offset).square().sum(0)[0]
        for x in middle
    ]
    norms = torch.stack(squares)  # (samples, channels, *positions)
    np.testing.assert_allclose(found[1].channels, norms.mean((0, 2, 3)).numpy())
    np.testing.assert_allclose(found[-1].channels, 1.0)
    at_positions = norms.sum(1, keepdim=True)
    torch.testing.assert_close(positions(found[1]), at_positions / at_positions.mean())
    torch.testing.assert_close(positions(found[-1]), torch.ones(len(own.inputs), 1, dtype=torch.float64))


def test_groups_of_channels_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).double().eval()
    x = torch.randn(9, 4, 4, 4, dtype=torch.float64)
    z = net[0](x).detach().requires_grad_()
    squares = sum(
        torch.autograd.grad(output.sum(), z, retain_graph=True)[0].square() for output in net[1:](z).unbind(1)
    )
    assert isinstance(squares, Tensor)
    grouped = squares.reshape(9, 2, 3, 2, 2).sum(2)
    first = found_for(Subject(net, x), 4)[0]
    torch.testing.assert_close(positions(first), grouped / grouped.mean((0, 2, 3), keepdim=True))
    np.testing.assert_allclose(first.channels, squares.mean((0, 2, 3)).numpy())


def test_a_linear_layer_over_tokens_has_a_weight_for_each_token() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix, self.out = nn.Conv1d(2, 5, 1), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.mix(self.conv(x).transpose(1, 2))  # (m, 6, 4)
            out: Tensor = self.out(functional.relu(tokens)[:, ::2].sum(1))
            return out

    torch.manual_seed(0)
    own = Subject(Mixer().double().eval(), torch.randn(8, 2, 6, dtype=torch.float64))
    seen = positions(found_for(own)[1])
    assert seen.shape == (8, 6, 1)
    assert not seen[:, 1::2].any()
    assert float(seen.mean()) == pytest.approx(1.0)
    assert own.fit(sp.Sparse(50)).rows.converged.all()


def test_layers_that_no_output_sees_or_no_input_moves_count_alike() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unseen = nn.Conv2d(2, 3, 1), nn.Linear(3, 2)
            self.constant, self.vector, self.out = nn.Linear(5, 3), nn.Parameter(torch.randn(5)), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            features = functional.relu(self.conv(x)).mean((2, 3))
            out: Tensor = self.out(features + self.constant(self.vector)) + 0.0 * self.unseen(features)
            return out

    torch.manual_seed(0)
    own = Subject(Odd().double().eval(), torch.randn(12, 2, 3, 3, dtype=torch.float64))
    found = output_sensitivities(own.graph, channel_layers(own.graph), batches_of(own.inputs, 5))
    assert found["unseen"].positions is None
    assert found["constant"].positions is None
    assert found["conv"].positions is not None
    assert all((one.channels > 0).all() for one in found.values())
    assert own.fit(sp.Sparse(40)).rows.converged.all()


@pytest.mark.parametrize("outputs", [10, 11])
def test_batches_change_rounding_alone(outputs: int) -> None:
    own = Subject(pooled(outputs), torch.randn(20, 2, 4, 4, dtype=torch.float64))
    for one, other in zip(found_for(own, 7), found_for(own, 50), strict=True):
        np.testing.assert_allclose(one.channels, other.channels, rtol=1e-12)
        torch.testing.assert_close(positions(one), positions(other), rtol=1e-12, atol=0)


@pytest.mark.parametrize("outputs", [10, 200])
def test_few_probes_estimate_the_norms_where_outputs_are_many(outputs: int) -> None:
    net, x = pooled(outputs), torch.randn(300, 2, 4, 4, dtype=torch.float64)
    exact = sum(
        torch.autograd.grad(output.sum(), z, retain_graph=True)[0].square()
        for z in [net[0](x).detach().requires_grad_()]
        for output in net[1:](z).unbind(1)
    )
    assert isinstance(exact, Tensor)
    np.testing.assert_allclose(found_for(Subject(net, x))[0].channels, exact.mean((0, 2, 3)).numpy(), rtol=0.1)


@pytest.mark.parametrize(("factor", "dtype"), [(1e-19, torch.float32), (1e18, torch.float32), (1e-160, torch.float64)])
def test_the_size_of_the_outputs_does_not_matter(factor: float, dtype: torch.dtype) -> None:
    x = torch.randn(20, 2, 4, 4, dtype=dtype)
    graph = capture_graph(pooled(3).to(dtype), x)
    layers = channel_layers(graph)
    last = layers[-1].weight
    scaled = replace(graph, constants={**graph.constants, last: graph.constants[last] * factor})
    before, after = (output_sensitivities(one, layers, batches_of(x, 50))["0"] for one in (graph, scaled))
    torch.testing.assert_close(positions(before), positions(after), rtol=1e-4, atol=1e-6)
    assert np.isfinite(after.channels).all()


def test_outputs_of_very_different_size() -> None:
    net, x = pooled(3), torch.randn(20, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        net[3].weight[0] *= 1e-25
        net[3].weight[2] *= 1e8
    exact = found_for(Subject(net, x), 7)
    single = found_for(Subject(net.float(), x.float()), 7)
    for one, other in zip(exact, single, strict=True):
        torch.testing.assert_close(positions(one), positions(other).double(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.channels, other.channels, rtol=1e-3)


def test_derivatives_that_are_not_finite_are_named() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(functional.relu(self.conv(x)).mean((2, 3)) * 1e30 * 1e12)
            return out

    net = Steep().eval()
    with torch.no_grad():
        net.conv.weight.fill_(1e-10)
    message = r"derivatives of the outputs by layer 'conv'.* not finite in torch.float32"
    with pytest.raises(sp.InputError, match=message):
        found_for(Subject(net, torch.rand(5, 1, 2, 2)))


def test_without_gradients_around_it() -> None:
    torch.manual_seed(0)
    own = Subject(Strip().double().eval(), torch.randn(10, 2, 3, 8, dtype=torch.float64))
    with torch.no_grad():
        assert own.fit(sp.Sparse(50)).rows.converged.all()


@cache
def strips() -> tuple[NetworkGraph, NetworkGraph]:
    """The same network in single and in double precision."""
    torch.manual_seed(0)
    net, x = Strip().eval(), torch.randn(2, 2, 5, 8)
    return capture_graph(net, x), capture_graph(net.double(), x.double())


@pytest.mark.parametrize("amplitude", [1e-3, 1e-4, 1e-5])
def test_what_counts_keeps_its_variance_in_float32_beside_what_does_not(amplitude: float) -> None:
    x = torch.randn(60, 2, 5, 8)
    x[..., :4] = 3 + amplitude * torch.randn(60, 2, 5, 4)
    sums = []
    for graph in strips():
        layers, batches = channel_layers(graph), batches_of(samples_of(graph, x), 7)
        omega = output_sensitivities(graph, layers, batches)[layers[0].name].positions
        walk = Walk(graph, batches)
        walk.run_until(layers[0].node)
        statistics = Gathering(walk, layers[0], propagated=False, omega=omega).statistics()
        sums.append(sums_of(statistics, 0, constant=True))
    single, double = sums
    np.testing.assert_allclose(single.gram, double.gram, atol=1e-4 * double.gram.diagonal().max())


def test_the_positions_of_all_uses_of_a_weight_are_one_mean() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.same(torch.tanh(self.same(x)))))
            return out

    torch.manual_seed(0)
    net, x = Twice().double().eval(), torch.randn(12, 4, dtype=torch.float64)
    first = net.same(x).detach().requires_grad_()
    second = net.same(torch.tanh(first)).detach().requires_grad_()
    squares = []
    for z, y in ((first, net.head(torch.tanh(net.same(torch.tanh(first))))), (second, net.head(torch.tanh(second)))):
        squares.append(sum(torch.autograd.grad(one.sum(), z, retain_graph=True)[0].square() for one in y.unbind(1)))
    g = torch.cat(squares)  # type: ignore[arg-type]
    found = found_for(Subject(net, x), 5)[0]
    np.testing.assert_allclose(found.channels, g.mean(0).numpy(), rtol=1e-10)
    torch.testing.assert_close(positions(found)[:, 0], g.sum(1) / g.sum(1).mean(), rtol=1e-10, atol=0)
