"""Weights that are computed of a parameter come back into it, to the bit, or are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from simplicit.network import capture_graph, with_constants
from simplicit.training.channels import channel_layers, folded


class Computed(nn.Module):
    """A layer whose weight (5, 4) is computed of ``w`` and other parameters and buffers, and a plain one."""

    mask: Tensor

    def __init__(self, weight: Callable[[Any], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.of, self.w, self.head = weight, nn.Parameter(torch.randn(shape)), nn.Linear(5, 2)
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(5, 2))
        self.register_buffer("mask", (torch.arange(20).reshape(5, 4) % 3 > 0).double())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.relu(functional.linear(x, self.of(self))))
        return result


COME_BACK: dict[str, tuple[Callable[[Any], Tensor], tuple[int, ...]]] = {
    "mask": (lambda s: s.w * s.mask, (5, 4)),
    "view": (lambda s: s.w.view(5, 4), (20,)),
    "index": (lambda s: s.w[:, [4, 0, 2, 1]], (5, 6)),
    "multiples": (lambda s: -0.3 * s.w.t() * torch.tensor([0.1, 0.7, 2.0, 1e-9, 5.0])[:, None], (4, 5)),
    "low rank": (lambda s: s.w + s.b @ s.a, (5, 4)),
    "identity": (lambda s: s.w + torch.eye(5, 4), (5, 4)),
}
LEFT: dict[str, tuple[Callable[[Any], Tensor], tuple[int, ...]]] = {
    "function": (lambda s: s.w.exp(), (5, 4)),
    "of positive ones the identity": (lambda s: s.w.relu(), (5, 4)),
    "clamped": (lambda s: s.w.clamp(-50, 50), (5, 4)),
    "sum": (lambda s: s.w - s.w.mean(), (5, 4)),
    "twice": (lambda s: s.w.expand(5, 4), (1, 4)),
    "constants beside": (lambda s: s.w * s.mask + 1, (5, 4)),
    "no zero": (lambda s: 0.7 * s.w + 0.1 * s.mask, (5, 4)),
    "rounded": (lambda s: s.w.float().double(), (5, 4)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Computed(*(COME_BACK | LEFT)[name]).double().eval(), torch.rand(40, 4, dtype=torch.float64)


def check_back(net: nn.Module, result: sp.FitResult, x: Tensor) -> nn.Module:
    """What comes back has the network's keys, and computes what the model of the fit does."""
    new = result.network()
    assert list(new.state_dict()) == list(net.state_dict())
    torch.testing.assert_close(new(x), result.model.predict(x), rtol=0, atol=1e-12)
    return new


@pytest.mark.parametrize(
    ("name", "recipe"), [*((name, sp.Sparse(50)) for name in COME_BACK), ("low rank", sp.Matching(sp.L1(0.01)))]
)
def test_weights_that_are_computed_come_back_into_their_parameter(name: str, recipe: sp.training.Recipe) -> None:
    net, x = made(name)
    result = sp.fit(net, x, recipe, executor="serial")
    assert [(layer.name, layer.weights) for layer in result.layers] == [("w", 20), ("head", 10)]
    new: Any = check_back(net, result, x)
    assert int(torch.count_nonzero(new.of(new))) == result.layers[0].non_zeros <= 20
    for own in ("mask", "a"):
        assert torch.equal(getattr(new, own), getattr(net, own))


@pytest.mark.parametrize("name", LEFT)
def test_others_cannot_be_undone(name: str) -> None:
    assert not folded(capture_graph(*made(name))).folds


def test_others_are_left_alone() -> None:
    net, x = made("function")
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    assert [layer.name for layer in result.layers] == ["head"]
    assert "left alone w (a weight is computed from it" in result.summary()
    assert torch.equal(check_back(net, result, x).w, net.w)  # type: ignore[arg-type]


class Uses(nn.Module):
    """A weight that is computed twice, and a parameter of which something else may be computed too."""

    def __init__(self, also: Callable[[Any], Tensor] | None) -> None:
        super().__init__()
        self.w, self.a, self.head, self.also = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4), nn.Linear(4, 2), also

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.relu(functional.linear(x, 2 * self.w + self.a.weight * 3))
        x = x if self.also is None else x * self.also(self)
        result: Tensor = self.head(torch.relu(self.a(x)))
        return result


def test_a_weight_that_is_computed_twice_is_one_layer() -> None:
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(16)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = torch.relu(functional.linear(x, 2 * self.w.view(4, 4)))
            result: Tensor = self.head(x)
            return result

    net, x = Twice().double().eval(), torch.rand(40, 4, dtype=torch.float64)
    layers = channel_layers(folded(capture_graph(net, x)))
    assert [(layer.name, len(layer.uses)) for layer in layers] == [("w", 2), ("head", 1)]
    check_back(net, sp.fit(net, x, sp.Sparse(50), executor="serial"), x)


def test_parts_that_are_computed_apart_are_layers_of_their_own() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(functional.linear(x, 2 * self.w[:4]))
            return functional.linear(hidden, 3 * self.w[4:])

    torch.manual_seed(0)
    net, x = Parts().double().eval(), torch.rand(40, 4, dtype=torch.float64)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    assert [(layer.name, layer.weights) for layer in result.layers] == [("w:0", 16), ("w:1", 16)]
    assert int(torch.count_nonzero(check_back(net, result, x).w)) == result.nnz == 16  # type: ignore[arg-type]


@pytest.mark.parametrize("also", [None, lambda s: s.w.sum()])
def test_what_something_else_reads_is_left_alone(also: Callable[[Any], Tensor] | None) -> None:
    """The sum is computed of ``a.weight`` too, which is a layer's, and changes with it."""
    torch.manual_seed(0)
    net, x = Uses(also).double().eval(), torch.rand(40, 4, dtype=torch.float64)
    graph = folded(capture_graph(net, x))
    assert not graph.folds
    check_back(net, sp.fit(net, x, sp.Sparse(50), executor="serial"), x)


def test_constants_come_back_in_single_precision_with_zeros_to_the_bit() -> None:
    net, x = made("low rank")
    graph = folded(capture_graph(net.float(), x.float()))
    (name,) = graph.folds
    wanted = torch.where(torch.arange(20).reshape(5, 4) % 2 == 0, graph.constants[name], 0.0)
    new: Any = with_constants(graph, {name: wanted})
    assert torch.equal(new.of(new) == 0, wanted == 0)
    torch.testing.assert_close(new.of(new), wanted, rtol=1e-5, atol=1e-6)
