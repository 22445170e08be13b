"""Programs of torch.export are opened node by node: in-place operations, views and composite ones, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import simplicit as sp
from simplicit.network.graph import capture_graph

Body = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A convolution with batch norm, and what a test does to its result (m, 4, 3, 3)."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.norm, self.body = nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(self.conv(x)))


def changed(y: Tensor, function: Callable[[Tensor], object]) -> Tensor:
    """The tensor after a function has changed it."""
    function(y)
    return y


def viewed(y: Tensor) -> Tensor:
    """A flat view is changed, and nobody reads the tensor any more."""
    return y.flatten(1).relu_() * 2.0


def residual(y: Tensor) -> Tensor:
    """Changed twice, and read in between."""
    kept = y * 2.0
    y += kept
    y.relu_()
    y.mul_(kept.mean(dim=1, keepdim=True))
    return y + kept


def named(y: Tensor) -> Tensor:
    """A copy of everything composite."""
    parts = y.permute(0, 2, 3, 1).contiguous().reshape(y.shape[0], -1, 4).chunk(2, dim=2)
    wide = parts[0].to(torch.float64).reshape_as(parts[1]).type_as(y)
    return torch.relu(wide).flatten(1) - parts[1].expand(-1, -1, 2).detach().flatten(1)


OPENED: dict[str, Body] = {
    **{
        name: (lambda y, name=name: changed(y, lambda z: getattr(z, name)())) for name in ("relu_", "sigmoid_", "tanh_")
    },
    "silu_": lambda y: nn.functional.silu(y, inplace=True),
    "hardswish_": lambda y: nn.functional.hardswish(y, inplace=True),
    "clamp_": lambda y: y.clamp_(-0.5, 0.5),
    "max_pool2d": lambda y: nn.functional.max_pool2d(y, 2),
    "a dead view": viewed,
    "residual": residual,
    "composite": named,
}


def part(y: Tensor) -> Tensor:
    """A part is changed, and the whole is read."""
    y[:, :1].relu_()
    return y.flatten(1)


def before(y: Tensor) -> Tensor:
    """A view that was taken before reads what is written later."""
    flat = y.flatten(1)
    y.relu_()
    return flat * 2.0


def transposed(y: Tensor) -> Tensor:
    """Changed through another view, of a view."""
    flat = y.flatten(2)
    flat.transpose(1, 2).mul_(2.0).relu_()
    return flat.flatten(1) + y.flatten(1)


def assigned(y: Tensor) -> Tensor:
    """A slice is assigned."""
    z = torch.relu(y)
    z[:, 0] = y[:, 1]
    return z.flatten(1)


LEFT: dict[str, Body] = {
    "a part": part,
    "a view before": before,
    "a transposed view": transposed,
    "an assigned slice": assigned,
    "half of a split": lambda y: changed(y, lambda z: z.chunk(2, dim=1)[1].relu_()).flatten(1),
}


def exact(net: nn.Module) -> None:
    """The model of a network in float64 is the network."""
    U = np.random.default_rng(0).normal(size=(5, 2, 4, 4))
    with torch.no_grad():
        expected = net(torch.from_numpy(U.copy())).flatten(1).numpy()
    np.testing.assert_allclose(sp.from_torch(net, U).predict(U).reshape(5, -1), expected, atol=1e-12)


def made(body: Body) -> Net:
    """A seeded network in float64, with statistics that are not trivial."""
    torch.manual_seed(0)
    net = Net(body).double()
    nn.init.normal_(net.norm.running_mean)
    nn.init.uniform_(net.norm.running_var, 0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("name", OPENED)
def test_a_program_is_opened_without_tracing_the_network_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the whole network was traced again")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)
    exact(made(OPENED[name]))


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """The programs that are left to torch, which traces them again."""
    programs: list[ExportedProgram] = []
    opened = ExportedProgram.run_decompositions

    def noting(program: ExportedProgram, *rest: Any) -> ExportedProgram:
        programs.append(program)
        return opened(program, *rest)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", noting)
    return programs


@pytest.mark.parametrize("name", LEFT)
def test_memory_that_is_read_under_another_name_is_left_to_torch(name: str, left: list[ExportedProgram]) -> None:
    exact(made(LEFT[name]))
    assert len(left) == 1


def test_the_input_may_be_changed_in_place(left: list[ExportedProgram]) -> None:
    class Changing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen = x.flatten(1)
            x.relu_()
            return seen - 0.5

    exact(Changing().eval())
    assert len(left) == 1


def test_a_comparison_in_place_keeps_the_dtype() -> None:
    net = made(lambda y: y.clone().gt_(0.0) * y)
    exact(net)


def test_weights_of_a_capture_are_its_own() -> None:
    net = made(lambda y: y.relu_())
    U = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    model, graph = sp.from_torch(net, U), capture_graph(net, U)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    first = model.predict(U)
    with torch.no_grad():
        net.conv.weight.zero_()
    np.testing.assert_array_equal(model.predict(U), first)
    assert graph.constants["p_conv_weight"].abs().sum() > 0
