"""What errors are worth, in channels and at positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.training.channels.layers import tied_layers
from simplicit.training.channels.rows import TiedProblem
from simplicit.training.channels.sensitivity import Worth, worth
from simplicit.training.channels.statistics import Gathering
from simplicit.training.channels.walk import Walk, batches_of


def found_for(net: nn.Module, inputs: Tensor, size: int = 50) -> list[Worth]:
    graph = capture_graph(net, inputs)
    return list(worth(graph, tied_layers(graph), batches_of(inputs, size)).values())


def positions(one: Worth) -> Tensor:
    assert one.positions is not None
    return torch.cat(one.positions)


class Strip(nn.Module):
    """A convolution of which the output sees the first columns alone."""

    def __init__(self, seen: int = 4) -> None:
        super().__init__()
        self.conv, self.linear, self.seen = nn.Conv2d(2, 4, 1), nn.Linear(4, 3), seen

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.conv(x)[..., : self.seen]
        out: Tensor = self.linear(functional.relu(seen).mean((2, 3)))
        return out


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
    first = found_for(net, x, 4)[0]
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
    net = Mixer().double().eval()
    x = torch.randn(8, 2, 6, dtype=torch.float64)
    seen = positions(found_for(net, x)[1])
    assert seen.shape == (8, 6, 1)
    assert not seen[:, 1::2].any()
    assert float(seen.mean()) == pytest.approx(1.0)
    result = sp.fit(net, x, preset="sparse", sparsity=50)
    assert result.rows.converged.all()


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
    net, x = Odd().double().eval(), torch.randn(12, 2, 3, 3, dtype=torch.float64)
    graph = capture_graph(net, x)
    found = worth(graph, tied_layers(graph), batches_of(x, 5))
    assert found["unseen"].positions is None
    assert found["constant"].positions is None
    assert found["conv"].positions is not None
    assert all((one.channels > 0).all() for one in found.values())
    assert sp.fit(net, x, preset="sparse", sparsity=40).rows.converged.all()


@pytest.mark.parametrize("outputs", [10, 11])
def test_batches_change_rounding_alone(outputs: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, outputs)).double().eval()
    x = torch.randn(20, 2, 4, 4, dtype=torch.float64)
    for one, other in zip(found_for(net, x, 7), found_for(net, x, 50), strict=True):
        np.testing.assert_allclose(one.channels, other.channels, rtol=1e-12)
        torch.testing.assert_close(positions(one), positions(other), rtol=1e-12, atol=0)


def test_signs_estimate_the_norms_where_outputs_are_many() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 200)).double().eval()
    x = torch.randn(300, 2, 4, 4, dtype=torch.float64)
    exact = sum(
        torch.autograd.grad(output.sum(), z, retain_graph=True)[0].square()
        for z in [net[0](x).detach().requires_grad_()]
        for output in net[1:](z).unbind(1)
    )
    assert isinstance(exact, Tensor)
    np.testing.assert_allclose(found_for(net, x)[0].channels, exact.mean((0, 2, 3)).numpy(), rtol=0.1)


@pytest.mark.parametrize(("factor", "dtype"), [(1e-19, torch.float32), (1e18, torch.float32), (1e-160, torch.float64)])
def test_the_size_of_the_outputs_does_not_matter(factor: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).to(dtype).eval()
    x = torch.randn(20, 2, 4, 4, dtype=dtype)
    before = found_for(net, x)[0]
    with torch.no_grad():
        net[3].weight *= factor
    after = found_for(net, x)[0]
    torch.testing.assert_close(positions(before), positions(after), rtol=1e-4, atol=1e-6)
    assert np.isfinite(after.channels).all()


def test_outputs_of_very_different_size() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double().eval()
    x = torch.randn(20, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        net[3].weight[0] *= 1e-25
        net[3].weight[2] *= 1e8
    exact, single = found_for(net, x, 7), found_for(net.float(), x.float(), 7)
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
        found_for(net, torch.rand(5, 1, 2, 2))


def test_without_gradients_around_it() -> None:
    torch.manual_seed(0)
    net, x = Strip().double().eval(), torch.randn(10, 2, 3, 8, dtype=torch.float64)
    with torch.no_grad():
        result = sp.fit(net, x, preset="sparse", sparsity=50)
    assert result.rows.converged.all()


@pytest.mark.parametrize("amplitude", [1e-3, 1e-4, 1e-5])
def test_what_counts_keeps_its_variance_in_float32_beside_what_does_not(amplitude: float) -> None:
    torch.manual_seed(0)
    net = Strip().eval()
    x = torch.randn(60, 2, 5, 8)
    x[..., :4] = 3 + amplitude * torch.randn(60, 2, 5, 4)
    problems = []
    for dtype in (torch.float32, torch.float64):
        graph = capture_graph(net.to(dtype), x.to(dtype))
        layers, batches = tied_layers(graph), batches_of(x.to(dtype), 7)
        omega = worth(graph, layers, batches)[layers[0].name].positions
        walk = Walk(graph, batches)
        walk.run_until(layers[0].node)
        statistics = Gathering(walk, layers[0], own=False, omega=omega).statistics()
        problems.append(TiedProblem.of(statistics, 0, constant=True))
    single, double = problems
    np.testing.assert_allclose(single.gram, double.gram, atol=1e-4 * double.gram.diagonal().max())


@pytest.mark.parametrize("sparsity", [np.int64(50), np.float64(50.0), 50, None])
def test_a_preset_keeps_its_ridge_whatever_the_type_of_the_sparsity(sparsity: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 2, 3, 8, dtype=torch.float64)
    tied = sp.fit(Strip().double().eval(), x, preset="sparse", sparsity=sparsity, penalty=sp.L1(1e-4))
    assert (tied.options.ridge, tied.options.anchor) == (0.01, 1.0)
    flat = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    untied = sp.fit(flat, x[:, 0, :, :2].flatten(1), preset="sparse", sparsity=sparsity, penalty=sp.L1(1e-4))
    ridge, anchor = (1e-3, 0.8) if sparsity is None else (0.01 / np.sqrt(0.5), 0.6)
    assert (untied.options.ridge, untied.options.anchor) == (pytest.approx(ridge), anchor)
