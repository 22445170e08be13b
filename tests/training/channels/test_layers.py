"""Which layers a graph has, and which weights cannot be tied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.channels import channel_layers, has_convolutions, in_layers
from tied_nets import images, subject


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(torch.relu(self.conv(x))).mean((2, 3))
        return result


class _Matrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.matrix = nn.Conv2d(3, 3, 3), nn.Parameter(torch.rand(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.conv(x)).mean((2, 3)) @ self.matrix.T
        return result


class _OneBias(nn.Module):
    """Two convolutions that share their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.second.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1).mean((2, 3))


class _Standardised(nn.Conv2d):
    """A convolution that computes its weight anew at every call, which no parametrisation says."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def _normed() -> nn.Module:
    return nn.Sequential(_Standardised(3, 4, 3), nn.ReLU(), nn.Flatten())


def _transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten())


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (_Twice, r"net: the weight of 'conv' is used twice"),
        (_Matrix, r"net: parameter 'matrix' is the weight of aten.matmul.default"),
        (_normed, r"is computed from other parameters"),
        (_transposed, r"net: parameter '2.weight' is the weight of aten.conv_transpose2d.input"),
        (_OneBias, r"the bias of '.*' is used twice"),
    ],
)
def test_weights_that_cannot_be_tied_are_named(net: Any, message: str) -> None:
    own = Subject(net().double().eval(), images())
    assert has_convolutions(own.graph)
    assert not in_layers(own.graph)
    for recipe in (sp.Sparse(), sp.Matching()):
        with pytest.raises(sp.InputError, match=message):
            own.fit(recipe)


def test_layers_come_in_the_order_of_evaluation() -> None:
    layers = channel_layers(subject("projection").graph)
    assert layers[0].name == "stem"
    assert {layer.name for layer in layers} == {"stem", "first", "second", "project", "linear"}
    assert sum(layer.size for layer in layers) == sp.weight_count(subject("projection").net)
    last = layers[-1]
    assert (last.name, last.rows, last.groups, last.geometry, last.constant) == ("linear", 5, 1, None, True)


def test_linear_layers_are_layers_without_convolutions() -> None:
    graph = Subject(mlp(6, 5, 3, bias=False), uniform(5, 6)).graph
    assert in_layers(graph)
    assert not has_convolutions(graph)
    assert [(layer.name, layer.rows, layer.constant) for layer in channel_layers(graph)] == [
        ("0", 5, False),
        ("2", 3, False),
    ]


def test_a_network_without_weights_has_no_layers() -> None:
    graph = Subject(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(5, 6)).graph
    assert not in_layers(graph)
    assert channel_layers(graph) == []
