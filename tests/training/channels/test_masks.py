"""Padding is left out of the sums, wherever the tokens stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.training.channels import ChannelProvider, channel_layers
from simplicit.training.channels.masks import Masks, mask_of
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.statistics import Gathering
from simplicit.training.channels.walk import Walk

M, T, D = 11, 5, 6


class Laid(nn.Module):
    """A product on values that are laid out in some way."""

    def __init__(self, apply: Callable[[nn.Module, Tensor], Tensor], weight: nn.Module) -> None:
        super().__init__()
        self.apply_it, self.map = apply, weight

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_it(self.map, x).flatten(1)


def tokens_first(layer: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = layer(x.transpose(0, 1)).transpose(0, 1)
    return result


def tokens_first_in_one(layer: nn.Module, x: Tensor) -> Tensor:
    flat = x.transpose(0, 1).reshape(-1, D)
    result: Tensor = layer(flat).reshape(T, -1, 4).transpose(0, 1)
    return result


def after_attention(layer: nn.Module, x: Tensor) -> Tensor:
    heads = x.reshape(x.shape[0], T, 2, D // 2).transpose(1, 2)
    seen = nn.functional.scaled_dot_product_attention(heads, heads, heads)
    result: Tensor = layer(seen.permute(2, 0, 1, 3).reshape(-1, D)).reshape(T, -1, 4).transpose(0, 1)
    return result


LAID: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "samples first": lambda layer, x: layer(x),
    "in one": lambda layer, x: layer(x.reshape(-1, D)).reshape(x.shape[0], T, -1),
    "tokens first": tokens_first,
    "tokens first, in one": tokens_first_in_one,
    "after attention": after_attention,
}


def padded(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples, and a mask of their lengths."""
    torch.manual_seed(seed)
    lengths = torch.randint(1, T + 1, (M,))
    return torch.randn(M, T, D, dtype=torch.float64), (torch.arange(T) < lengths[:, None]).long()


@pytest.mark.parametrize("name", LAID)
def test_only_what_is_no_padding_is_summed(name: str) -> None:
    x, mask = padded()
    net = Laid(LAID[name], nn.Linear(D, 4)).double().eval()
    graph = capture_graph(net, x)
    (layer,), batches = channel_layers(graph), batches_of(x, 4)
    seen: list[Tensor] = []
    net.map.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        net(x)
    first = "tokens first" in name or name == "after attention"
    order = (mask.T if first else mask).flatten() != 0
    rows = seen[0].reshape(-1, D)[order]
    masks = Masks.of(graph, batches, mask, 4)
    found = Gathering(Walk(graph, batches), layer, masks=masks).statistics()
    assert found.count == len(rows) == int(mask.sum())
    o, s = found.offset[0], found.features[0]
    gram = found.products[0] + np.outer(o, s) + np.outer(s, o) + found.count * np.outer(o, o)
    np.testing.assert_allclose(gram, (rows.T @ rows).numpy(), rtol=1e-9, atol=1e-9)


def test_convolutions_over_tokens_and_other_contractions_know_the_mask() -> None:
    x, mask = padded()
    x = x.transpose(1, 2).contiguous()
    conv = Laid(lambda layer, one: layer(one), nn.Conv1d(D, 4, 3, padding=1, groups=2)).double().eval()
    product = Laid(lambda layer, one: layer.weight @ one, nn.Linear(D, 4)).double().eval()
    for net in (conv, product):
        graph, batches = capture_graph(net, x), batches_of(x, 4)
        (layer,) = channel_layers(graph)
        found = Gathering(Walk(graph, batches), layer, masks=Masks.of(graph, batches, mask, 4)).statistics()
        assert found.count == int(mask.sum())


class Sentences(nn.Module):
    """Two layers on tokens, averaged over those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(D, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        there, x = x[..., -1:], x[..., :-1]
        x = torch.relu(self.second(torch.relu(self.first(x))))
        result: Tensor = self.head((there * x).sum(1) / there.sum(1))
        return result


@pytest.mark.parametrize("recipe", [sp.Sparse(60), sp.Matching(sp.L1(1e-3))])
def test_what_padding_holds_does_not_matter(recipe: Any) -> None:
    x, mask = padded()
    torch.manual_seed(0)
    net = Sentences().double().eval()
    fitted = []
    for padding in (0.0, 30.0):
        values = torch.where(mask[..., None] != 0, x, padding)
        result = sp.fit(net, torch.cat([values, mask[..., None]], 2), recipe, mask=mask.numpy(), executor="serial")
        fitted.append((result.network().state_dict(), [layer.error for layer in result.layers]))
    for key, value in fitted[0][0].items():
        torch.testing.assert_close(value, fitted[1][0][key], rtol=1e-8, atol=1e-10)
    assert fitted[0][1] == pytest.approx(fitted[1][1], rel=1e-8, abs=1e-12)


def test_a_network_s_own_mask_is_found_by_its_name() -> None:
    class OnMasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 3)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.relu(self.layer(x[..., :1] * attention_mask[..., None])).flatten(1)

    torch.manual_seed(0)
    x, mask = padded()
    given = {"x": x, "attention_mask": mask}
    graph = capture_graph(OnMasks().double().eval(), given)
    assert mask_of(graph) == slice(x[0].numel(), x[0].numel() + mask.shape[1])
    provider = ChannelProvider.of(graph, graph.batch(given), workers=1)
    assert provider.masks is not None
    assert torch.equal(torch.cat(list(provider.masks.batches)), mask != 0)
    ((_, (rows,)),) = provider.on_baseline()
    assert rows.data.sums.count == int(mask.sum())
    assert mask_of(capture_graph(Sentences().double().eval(), torch.rand(3, T, D + 1).double())) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((M + 1, T)), r"mask: expected shape \(m, T\), 11 samples"),
        (np.ones(M), r"mask: expected shape \(m, T\)"),
        (np.zeros((M, T)), r"mask: it leaves no position"),
        (np.full((M, T), -1e9), r"mask: expected 1 where a token counts and 0 where it is padding"),
        (np.full((M, T), np.nan), r"mask: expected 1 where a token counts"),
        (np.ones((M, T + 2)), r"mask: no layer has 7 positions beside its samples and columns"),
        ("all", r"mask must hold real numbers"),
    ],
)
def test_masks_that_do_not_fit(mask: Any, message: str) -> None:
    x = torch.rand(M, T, D + 1).double()
    with pytest.raises(sp.InputError, match=message):
        sp.fit(Sentences().double().eval(), x, sp.Sparse(50), mask=mask)


def test_a_mask_where_every_state_is_a_row() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with pytest.raises(sp.InputError, match=r"mask: rows are not tied over positions"):
        sp.fit(net, torch.rand(9, 4), sp.Sparse(50, structure="feedforward"), mask=np.ones((9, 2)))


def summed(net: nn.Module, x: Tensor, mask: Tensor) -> list[int]:
    """How many positions each layer counts."""
    graph, batches = capture_graph(net.double().eval(), x), batches_of(x, 4)
    masks = Masks.of(graph, batches, mask, 4)
    return [Gathering(Walk(graph, batches), layer, masks=masks).statistics().count for layer in channel_layers(graph)]


def by_hand(layer: nn.Module, x: Tensor) -> Tensor:
    heads = x.reshape(x.shape[0], T, T, 2).transpose(1, 2)  # as many heads as tokens
    seen = (heads @ heads.transpose(2, 3)).softmax(-1) @ heads
    result: Tensor = layer(seen.transpose(1, 2).reshape(x.shape[0], T, 2 * T))
    return result


def test_columns_are_no_positions_however_many() -> None:
    _, mask = padded()
    torch.manual_seed(0)
    x = torch.randn(M, T, T, dtype=torch.float64)  # as many features as tokens
    pooled = Laid(lambda layer, one: layer(one.mean(1)), nn.Linear(T, 4))
    tokens = Laid(lambda layer, one: layer(one.reshape(-1, T)).reshape(one.shape[0], T, 4), nn.Linear(T, 4))
    assert summed(tokens, x, mask) == [int(mask.sum())]
    assert summed(pooled, x, mask) == [M]
    heads = Laid(by_hand, nn.Linear(2 * T, 4))
    assert summed(heads, torch.randn(M, T, 2 * T, dtype=torch.float64), mask) == [int(mask.sum())]


def test_two_axes_that_may_have_the_tokens_are_asked_about() -> None:
    _, mask = padded()
    x = torch.randn(M, T, T, dtype=torch.float64)
    turned = Laid(lambda layer, one: layer(one.transpose(1, 2)), nn.Linear(T, 4))
    twice = Laid(lambda layer, one: layer(one[..., None]), nn.Linear(1, 4))
    for net in (turned, twice):
        with pytest.raises(sp.InputError, match=r"mask: what 'linear' is applied to has several axes of length 5"):
            summed(net, x, mask)
        assert Masks.of(capture_graph(net, x), [x], False, 4) is None
