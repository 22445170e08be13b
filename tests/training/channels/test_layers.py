"""Which layers a graph has, and which weights cannot be tied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.channels import channel_layers, has_convolutions
from simplicit.training.channels.finding import _COMPUTED, found_layers
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


def _partly_normed() -> nn.Module:
    return nn.Sequential(*_normed()[:2], nn.Conv2d(4, 2, 3), nn.Flatten())


def test_a_network_without_a_weight_to_train_is_refused() -> None:
    own = Subject(_normed().double().eval(), images())
    assert has_convolutions(own.graph)
    for recipe in (sp.Sparse(), sp.Matching()):
        with pytest.raises(sp.InputError, match=r"net: no weight is left .*\(0: a weight is computed from it"):
            own.fit(recipe)


@pytest.mark.parametrize(("net", "count"), [(_Twice, 81), (_Matrix, 93), (_OneBias, 216), (_partly_normed, 72)])
def test_whatever_can_be_tied_is_trained(net: Any, count: int) -> None:
    own = Subject(net().double().eval(), images())
    result = own.fit(sp.Sparse(50))
    assert (result.weight_count, result.nnz) == (count, int(count / 2))
    assert result.rows.converged.all()


def test_a_bias_of_two_layers_stays() -> None:
    net = _OneBias().double().eval()
    layers = channel_layers(Subject(net, images()).graph)
    assert [(layer.constant, layer.last.biased) for layer in layers] == [(False, True)] * 2
    new = Subject(net, images()).fit(sp.Sparse(50)).network()
    assert torch.equal(new.first.bias, net.first.bias)  # type: ignore[union-attr, arg-type]


def test_what_is_left_alone_is_said() -> None:
    result = Subject(_partly_normed().double().eval(), images()).fit(sp.Sparse(50))
    assert "left alone" in result.summary()
    assert result.figures()["left_alone"] == {"0": _COMPUTED}


class _Words(nn.Module):
    """An embedding, whose weight may be the head's too, and a bilinear map."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.words, self.inner, self.pair = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Bilinear(4, 4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.register_buffer("ids", torch.arange(5))
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inner(x)) + self.words(self.ids)
        result: Tensor = self.head(self.pair(x, torch.tanh(x)))
        return result


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_bilinear_maps_are_left_alone(tied: bool) -> None:
    torch.manual_seed(0)
    found = found_layers(Subject(_Words(tied=tied).double().eval(), torch.rand(6, 5, 4).double()).graph)
    left = {"head" if tied else "words": "an embedding", "pair": "of a bilinear map"}
    assert [layer.name for layer in found.layers] == (["inner"] if tied else ["inner", "head"])
    assert {name: found.left_alone.get(name) for name in left} == left


class _Vocabulary(nn.Module):
    """A network of which only some of the input counts as numbers of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.inner(self.words((9 * x).long()))).mean(1))
        return result


def test_the_head_of_a_vocabulary_is_left_alone_unless_it_is_asked_for() -> None:
    torch.manual_seed(0)
    own = Subject(_Vocabulary().double().eval(), torch.rand(30, 5).double())
    assert [layer.name for layer in own.fit(sp.Sparse(50)).layers] == ["inner"]
    asked = own.fit(sp.Sparse(50, layers={"head": 75}))
    assert [(layer.name, layer.non_zeros) for layer in asked.layers] == [("inner", 8), ("head", 9)]


def test_layers_come_in_the_order_of_evaluation() -> None:
    layers = channel_layers(subject("projection").graph)
    assert layers[0].name == "stem"
    assert {layer.name for layer in layers} == {"stem", "first", "second", "project", "linear"}
    assert sum(layer.size for layer in layers) == sp.weight_count(subject("projection").net)
    last = layers[-1]
    assert (last.name, last.rows, last.groups, last.geometry, last.constant) == ("linear", 5, 1, None, True)


def test_linear_layers_are_layers_without_convolutions() -> None:
    graph = Subject(mlp(6, 5, 3, bias=False), uniform(5, 6)).graph
    assert not has_convolutions(graph)
    assert [(layer.name, layer.rows, layer.constant) for layer in channel_layers(graph)] == [
        ("0", 5, False),
        ("2", 3, False),
    ]


def test_a_network_without_weights_has_no_layers() -> None:
    graph = Subject(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(5, 6)).graph
    assert channel_layers(graph) == []


class _Attending(nn.Module):
    """An attention to other tokens: its queries have a part of its weight and bias, its keys and values another."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.own(x[..., :4])
        result: Tensor = self.head(self.attention(x, tokens, tokens, need_weights=False)[0].mean(1))
        return result


class _Cut(nn.Module):
    """Parts of one weight, however they are cut, as layers; and as ones that overlap."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.apart = nn.Parameter(torch.randn(9, 8) / 3), nn.Parameter(torch.randn(9)), apart
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second, _ = self.weight.chunk(3)
        last = self.weight[6 if self.apart else 5 :]
        y = torch.relu(nn.functional.linear(x, first, self.bias[:3])) * (x @ second.T)
        result: Tensor = self.last(y + (x @ last.T)[..., -3:])
        return result


def test_parts_of_a_weight_are_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 5, 8, dtype=torch.float64)
    own = Subject(_Attending().double().eval(), x)
    result = own.fit(sp.Sparse(50))
    assert "left_alone" not in result.student.facts
    names = ["attention.in_proj_weight[0:8]", "attention.in_proj_weight[8:24]"]
    assert [(one.name, one.rows, one.weights) for one in result.layers[1:3]] == [(names[0], 8, 64), (names[1], 16, 128)]
    network: Any = result.network()
    weight, bias = network.attention.in_proj_weight, network.attention.in_proj_bias
    counts = [one.non_zeros for one in result.layers[1:3]]
    assert [int(weight[:8].count_nonzero()), int(weight[8:].count_nonzero())] == counts
    assert (bias != own.net.attention.in_proj_bias).all()  # type: ignore[union-attr, operator]
    assert result.layers[2].error < 0.5  # on what the queries have become
    with torch.no_grad():
        torch.testing.assert_close(own.fit(sp.Sparse(0)).network()(x), own.net(x), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_parts_that_overlap_are_left_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 8, dtype=torch.float64)
    apart, over = (found_layers(Subject(_Cut(apart=one).double().eval(), x).graph) for one in (True, False))
    assert [(one.name, one.rows, one.free_bias) for one in apart.layers] == [
        ("weight[0:3]", 3, True),
        ("weight[3:6]", 3, False),
        ("weight[6:9]", 3, False),
        ("last", 2, True),
    ]
    told = "used as a whole and in parts, or in parts that overlap"
    assert over.left_alone == {"weight[3:6]": told, "weight[5:9]": told}
    assert "weight[0:3]" in [one.name for one in over.layers]


def test_a_weight_that_is_turned_reaches_later_layers() -> None:
    class Turned(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert self.bias is not None
            return x @ self.weight.T + self.bias

    torch.manual_seed(0)
    x, plain = torch.rand(50, 4, dtype=torch.float64), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    turned = nn.Sequential(Turned(4, 6), nn.ReLU(), Turned(6, 3))
    turned.load_state_dict(plain.state_dict())
    one, other = (Subject(net.double().eval(), x).fit(sp.Sparse(50)) for net in (plain, turned))
    assert [layer.error for layer in one.layers] == pytest.approx([layer.error for layer in other.layers], rel=1e-6)
    for key, value in one.network().state_dict().items():
        torch.testing.assert_close(value, other.network().state_dict()[key], rtol=1e-6, atol=1e-9)


class _Computed(nn.Module):
    """A layer, one whose weight is computed, and a block behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.low, self.high = (
            nn.Linear(4, 6),
            nn.Parameter(torch.rand(6, 2)),
            nn.Parameter(torch.rand(2, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(self.layer(x)) @ (self.low @ self.high)).softmax(-1)


def test_sparse_takes_the_layers_that_there_are_where_states_cannot_be_matched() -> None:
    torch.manual_seed(0)
    net, samples = _Computed().eval(), torch.rand(20, 4)
    result = sp.fit(net, samples, sp.Sparse(50))
    assert [layer.name for layer in result.layers] == ["layer"]
    assert torch.equal(result.network().low, net.low)
    assert torch.isfinite(result.network()(samples)).all()


class Likeness(nn.Module):
    """One number for a sample, without an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, u: Tensor) -> Tensor:
        return functional.cosine_similarity(self.one(u), self.other(u))


def test_a_network_of_one_number_for_a_sample() -> None:
    torch.manual_seed(0)
    U = torch.randn(12, 4, dtype=torch.float64)
    result = sp.fit(Likeness().double().eval(), U, sp.Sparse(50))
    assert result.network()(U).shape == (12,)
    torch.testing.assert_close(result.network()(U)[:, None], result.model.predict(U), rtol=1e-10, atol=1e-10)
