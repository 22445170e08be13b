"""``Structured``: whole neurons, channels and heads are gone, exactly, and what is left is fitted."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject
from unit_nets import made


def uniform(sparsity: float = 25, **options: Any) -> sp.Structured:
    """The same share of every layer."""
    return sp.Structured(sparsity, "uniform", **options)


@cache
def subject(name: str) -> Subject:
    return Subject(*made(name))


@cache
def fitted(name: str, recipe: sp.Structured | None = None) -> sp.FitResult:
    return subject(name).fit(uniform(50) if recipe is None else recipe)


@pytest.mark.parametrize("name", ["mlp", "residual", "excited", "gated"])
def test_the_network_is_the_model_and_every_row_is_proved(name: str) -> None:
    result, inputs = fitted(name), subject(name).inputs
    with torch.no_grad():
        outputs = result.network()(inputs).numpy()
    assert result.model.predict(inputs) == pytest.approx(outputs, abs=1e-9)
    assert result.rows.converged.all()
    assert result.nnz == sum(layer.non_zeros for layer in result.layers) == result.figures()["weights"][1]
    assert all(kept == count - count // 2 for count, kept in result.figures()["units"].values())


def test_a_network_that_is_made_smaller_by_hand_gives_the_same() -> None:
    result, inputs = fitted("mlp"), subject("mlp").inputs
    net = result.network()
    assert isinstance(net, nn.Sequential)
    smaller, columns = [], torch.arange(9)
    for layer in net:
        if isinstance(layer, nn.Linear):
            rows = (layer.weight != 0).any(1).nonzero()[:, 0]
            assert (layer.bias[(layer.weight == 0).all(1)] == 0).all()
            small = nn.Linear(len(columns), len(rows)).double()
            small.weight.data, small.bias.data = layer.weight[rows][:, columns], layer.bias[rows]
            smaller.append(small)
            columns = rows
        else:
            smaller.append(layer)
    assert [layer.out_features for layer in smaller if isinstance(layer, nn.Linear)] == [4, 3, 3]
    assert torch.allclose(nn.Sequential(*smaller)(inputs), net(inputs), atol=1e-12)


def test_norms_and_biases_of_dropped_channels_are_zero() -> None:
    net: Any = fitted("residual").network()
    gone = (net.first.weight == 0).flatten(1).all(1)
    assert gone.sum() == 3
    assert (net.second.weight[:, gone] == 0).all()
    for values in (net.norm1.weight, net.norm1.bias, net.norm1.running_mean):
        assert (values[gone] == 0).all()
    assert (net.norm1.weight[~gone] != 0).all()


def test_heads_go_with_their_queries_keys_and_values() -> None:
    net: Any = fitted("gated").network()
    gone = (net.o.weight == 0).all(0)
    assert gone.sum() == 4
    for layer in (net.q, net.k, net.v):
        assert ((layer.weight == 0).all(1) == gone).all()
    assert ((net.gate.weight == 0).all(1) == (net.up.weight == 0).all(1)).all()


def test_dropping_none_keeps_the_network() -> None:
    result = fitted("mlp", uniform(0))
    with torch.no_grad():
        outputs = result.network()(subject("mlp").inputs)
        assert torch.allclose(outputs, subject("mlp").net(subject("mlp").inputs), atol=1e-9)
    assert result.sparsity == 0


@pytest.mark.parametrize("allocation", ["states", "weights", "operations"])
def test_a_share_of_the_whole_network_is_met(allocation: str) -> None:
    result = fitted("excited", sp.Structured(30, allocation=allocation))
    figures = result.figures()
    units = np.array(list(figures["units"].values())).sum(axis=0)
    before, after = {
        "states": units,
        "weights": figures["weights"],
        "operations": figures["multiply-adds"],
    }[allocation]
    assert after <= 0.7 * before
    assert all(kept >= 1 for _, kept in figures["units"].values())


def test_layers_have_shares_of_their_own_and_rows_may_be_sparse_too() -> None:
    rules = {"q": 0, "gate": 50, "head": None}
    result = fitted("gated", uniform(layers=rules, zeros=70))
    units = result.figures()["units"]
    assert units == {"q": [2, 2], "gate": [6, 3]}
    assert result.nnz == int(result.weight_count * 0.3 + 1e-9)
    assert result.rows.converged.all()
    net: Any = result.network()
    assert (net.gate.weight == 0).all(1).sum() >= 3
    assert torch.equal(net.head.weight, subject("gated").net.head.weight)


def test_the_summary_says_what_is_gone() -> None:
    text = fitted("residual").summary()
    assert "3 of 6 channels of first" in text
    assert "multiply-adds" in text


@pytest.mark.parametrize(
    ("options", "argument", "words"),
    [
        ({"sparsity": 100}, "sparsity", "below 100"),
        ({"sparsity": 0.5}, "sparsity", "did you mean 50"),
        ({"sparsity": None}, "sparsity", "number"),
        ({"allocation": "best"}, "allocation", "uniform"),
        ({"zeros": 100}, "zeros", "below 100"),
        ({"anchor": 2}, "anchor", "between 0 and 1"),
        ({"layers": {"0": "2:4"}}, "layers", "whole units"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], argument: str, words: str) -> None:
    with pytest.raises(sp.InputError, match=words) as caught:
        sp.Structured(**options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("name", "recipe", "argument", "words"),
    [
        ("mlp", sp.Structured(99), "sparsity", "can"),
        ("mlp", uniform(5), "sparsity", "none"),
        ("mlp", uniform(layers={"5": 30}), "layers", "'5'"),
        ("residual", uniform(layers={"second": 30}), "layers", "can be dropped"),
        ("mlp", uniform(layers={"0": None, "2": None}), "net", "no units"),
        ("mlp", uniform(50, zeros=10), "zeros", "already"),
    ],
)
def test_what_a_network_cannot_give(name: str, recipe: sp.Structured, argument: str, words: str) -> None:
    with pytest.raises(sp.InputError, match=words) as caught:
        subject(name).fit(recipe)
    assert caught.value.argument == argument


def test_a_network_that_divides_by_what_is_gone_is_refused() -> None:
    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            result: torch.Tensor = self.second(y / y.abs())
            return result

    with pytest.raises(sp.InputError, match="divides by"):
        Subject(Signs().double().eval(), torch.rand(40, 5, dtype=torch.float64)).fit(uniform(50))
