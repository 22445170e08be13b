"""Targets that absorb the error of the skip path, through whatever lays values out anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.training.channels import channel_layers
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.statistics import Gathering
from simplicit.training.channels.walk import Walk

Lay = Callable[[Tensor, Tensor], Tensor]


def through_heads(x: Tensor, z: Tensor) -> Tensor:
    return z.view(x.shape[0], 2, x.shape[1] // 2, x.shape[2]).clone().flatten(1, 2)


LAYOUTS: dict[str, Lay] = {
    "as it is": lambda x, z: z,
    "flat": lambda x, z: z.reshape(-1, z.shape[-1]).reshape(x.shape),
    "copied": lambda x, z: z.clone().contiguous(),
    "through heads": through_heads,
    "tokens first": lambda x, z: z.transpose(0, 1).contiguous().permute(1, 0, 2),
}


class Block(nn.Module):
    """x + layer(norm(x)), or norm(x + layer(x)), after a first layer."""

    def __init__(self, lay: Lay, *, before: bool) -> None:
        super().__init__()
        self.first, self.norm, self.branch = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.drop, self.lay, self.before = nn.Dropout(0.3), lay, before

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        inner = self.norm(x) if self.before else x
        x = x + self.drop(self.lay(x, self.branch(inner)))
        return x if self.before else self.norm(x)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_branch_answers_for_the_skip_path(name: str, *, before: bool) -> None:
    torch.manual_seed(0)
    net, x = Block(LAYOUTS[name], before=before).double().eval(), torch.randn(9, 4, 6, dtype=torch.float64)
    graph = capture_graph(net, x)
    _, layer = channel_layers(graph)
    walk = Walk(graph, batches_of(x, 4))
    first = next(name for name, value in graph.constants.items() if value.shape == (6, 6))
    walk.change({first: 0.8 * graph.constants[first]})
    statistics = Gathering(walk, layer, frozenset({layer.node.name})).statistics()
    with torch.no_grad():
        ours, theirs = (x @ (scale * net.first.weight).T + net.first.bias for scale in (0.8, 1.0))
        seen, known = (net.norm(one) if before else one for one in (ours, theirs))
        residual = (known - seen) @ net.branch.weight.T + theirs - ours
    found = statistics.cross[0] + statistics.residuals[0][:, None] * statistics.offset[0]
    wanted = residual.flatten(0, 1).T @ seen.flatten(0, 1)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-9, atol=1e-9)


def test_a_sum_with_another_shape_is_no_skip() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branch = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.branch(torch.tanh(x)) + x.mean(1, keepdim=True)

    layers = channel_layers(capture_graph(Wide().eval(), torch.randn(3, 4, 6)))
    assert [layer.skip for layer in layers] == [None, None]


class Scaled(nn.Module):
    """A residual block whose branch has a gain for each channel (LayerScale), once as it is and once laid out anew."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.gain = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, -4.0, 1e-3, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gain * self.first(torch.relu(x))
        x = x + (self.second(torch.relu(x)).transpose(1, 2) * self.gain.reshape(1, -1, 1)).transpose(1, 2)
        result: Tensor = self.head(x.mean(1))
        return result


def test_skip_paths_are_seen_through_gains() -> None:
    net = Scaled().double().eval()
    x = torch.randn(20, 4, 6, dtype=torch.float64)
    graph = capture_graph(net, x)
    layers = {layer.name: layer for layer in channel_layers(graph)}
    inverse = torch.where(net.gain.abs() > 0.04, 1 / net.gain, 0.0).detach()  # nothing is blown up by a thousand
    for name in ("first", "second"):
        skip = layers[name].last.skip
        assert skip is not None
        assert torch.equal(skip.back(x, graph.constants), x * inverse)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    with torch.no_grad():
        assert (result.network()(x) - net(x)).abs().max() < 0.3 * net(x).abs().max()
