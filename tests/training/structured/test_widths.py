"""Which units a network has: rows that make them, and columns that read them, whatever stands between."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from simplicit.network import capture_graph
from simplicit.network.back import with_constants
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels import all_layers
from simplicit.training.structured import Plan
from unit_nets import NETS, made


@cache
def planned(name: str) -> tuple[NetworkGraph, Plan, Tensor]:
    net, inputs = made(name)
    graph = capture_graph(net, inputs)
    layers = all_layers(graph)
    return graph, Plan.of(graph, layers, layers), inputs


def plan_of(net: nn.Module, inputs: Tensor) -> Plan:
    graph = capture_graph(net.eval(), inputs)
    layers = all_layers(graph)
    return Plan.of(graph, layers, layers)


@pytest.mark.parametrize("name", NETS)
def test_the_units_of_a_network(name: str) -> None:
    _, plan, _ = planned(name)
    found = [
        (
            width.count,
            {layer: places.shape[1] for layer, places in width.rows.items()},
            {layer: places.shape[1] for (layer, _), places in width.columns.items()},
        )
        for width in plan.widths
    ]
    assert sorted(found, key=str) == sorted(NETS[name][2], key=str)


@pytest.mark.parametrize("name", NETS)
def test_what_nobody_reads_changes_nothing(name: str) -> None:
    """With the columns of a unit at zero its rows may be anything, and no other unit sees them."""
    graph, plan, inputs = planned(name)
    generator = torch.Generator().manual_seed(0)
    for number, width in enumerate(plan.widths):
        kept = plan.everything
        kept[number][[0, -1]] = False
        unread, noisy = dict(graph.constants), {}
        for layer in plan.layers.values():
            rows, columns = (torch.from_numpy(part) for part in plan.masks(layer, kept))
            if layer.name in width.readers:
                kernel = layer.kernel(unread[layer.weight]) * columns[:, None]
                unread |= layer.changed(kernel, unread[layer.weight])
            if layer.name in width.rows:
                noise = torch.randn(layer.kernel(unread[layer.weight]).shape, generator=generator).double()
                kernel = layer.kernel(unread[layer.weight]) + noise * ~rows[:, :, None]
                noisy |= layer.changed(kernel, unread[layer.weight])
        with torch.no_grad():
            plain, other = (with_constants(graph, changed)(inputs) for changed in (unread, unread | noisy))
        assert torch.equal(plain, other)
        assert noisy


def test_what_a_unit_saves_is_counted() -> None:
    _, plan, _ = planned("vgg")
    first = plan.widths[0]
    assert first.weights == 27 + 9 + 5
    assert first.operations == 64 * 27 + 16 * (9 + 5)
    saved = plan.saved(plan.everything)
    assert saved["units"] == {"0": [6, 6], "6": [5, 5], "10": [7, 7]}
    assert saved["weights"] == [6 * 27 + 6 * 9 + 5 * 6 + 7 * 20 + 3 * 7] * 2


def test_an_operation_that_is_not_known_keeps_units_together() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(torch.sort(self.first(x), dim=-1).values)
            return result

    assert not plan_of(Sorted(), torch.rand(4, 5)).widths


def test_a_loop_over_steps_has_units_too() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.first(x))
            result: Tensor = self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))))
            return result

    (width,) = plan_of(Steps(), torch.rand(4, 5)).widths
    assert width.count == 6
    assert set(width.rows) == {"first", "inner"}
    assert set(width.readers) == {"inner", "last"}


def test_heads_of_an_attention_that_is_written_out() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(6, 24), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 2).unbind(2)
            scores = torch.einsum("bthd,bshd->bhts", q, k).softmax(-1)
            result: Tensor = self.o(torch.einsum("bhts,bshd->bthd", scores, v).flatten(2))
            return result

    (width,) = plan_of(Written(), torch.rand(4, 5, 6)).widths
    assert (width.count, width.rows["qkv"].shape, width.kind) == (4, (4, 6), "heads")
