"""Networks with dead units of every kind: neurons, channels, heads, and constants behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NETS", "made", "zeroed"]


def zeroed(parameter: Tensor, axis: int, places: Iterable[int]) -> None:
    """Set places along an axis to zero."""
    with torch.no_grad():
        parameter.index_fill_(axis, torch.tensor([*places], dtype=torch.int64), 0.0)


class Images(nn.Module):
    """A convolution with batch norm, a residual block, a depthwise convolution, pooling, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.inner_norm = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.outer = nn.Conv2d(5, 6, 3, padding=1)
        self.each = nn.Conv2d(6, 6, 3, groups=6)
        self.head = nn.Linear(6 * 4, 3)
        for norm in (self.norm, self.inner_norm):
            nn.init.normal_(norm.bias)
            norm.running_mean = torch.randn(norm.num_features)
        # Nobody reads two inner channels; one channel of the stream is read, and written by nobody; one is not read.
        zeroed(self.outer.weight, 1, [1, 3])
        zeroed(self.inner.weight, 1, [4])
        with torch.no_grad():
            self.head.weight.reshape(3, 6, 4)[:, 4] = 0
        for writer in (self.first, self.outer):
            zeroed(writer.weight, 0, [2])
            zeroed(writer.bias, 0, [2])
        for part in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            zeroed(part, 0, [2])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)), inplace=True)
        x = x + self.outer(functional.relu(self.inner_norm(self.inner(x))))
        x = functional.max_pool2d(functional.relu(self.each(x)), 2)
        return self.head(x.flatten(1))


class Joined(nn.Module):
    """Concatenated channels, as in a DenseNet, of which later layers do not read some; the mean over places is."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(10, 3)
        zeroed(self.two.weight, 1, [2, 4])
        zeroed(self.head.weight, 1, [2, 7])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, torch.relu(self.one(x))], 1)
        y = torch.cat([y, torch.sigmoid(self.two(y))], 1)
        return self.head(y.mean([2, 3]))


class Encoder(nn.Module):
    """Embedded tokens, two heads of which one is not read, a gated layer, and two outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=True, activation="gelu")
        self.gate, self.back, self.head = nn.Linear(8, 12), nn.Linear(6, 8), nn.Linear(8, 3)
        zeroed(self.layer.self_attn.out_proj.weight, 1, range(4, 8))
        zeroed(self.layer.linear2.weight, 1, [0, 3, 9])
        zeroed(self.back.weight, 1, [5])

    def forward(self, ids: Tensor, *, scale: Tensor | None = None) -> dict[str, Any]:
        x = self.layer(self.table(ids))
        x = x + self.back(functional.glu(self.gate(x)))
        x = x if scale is None else x * scale[:, None, None]
        return {"scores": self.head(x[:, 0]), "rest": (x.mean(1),)}


class Recurrent(nn.Module):
    """A gated recurrent unit, whose hidden states stay, behind and before layers with dead neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.cell, self.out = nn.Linear(3, 5), nn.GRU(5, 4, batch_first=True), nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)
        zeroed(self.head.weight, 1, [1, 2])

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.cell(torch.tanh(self.into(x)))
        return self.head(torch.relu(self.out(hidden[:, -1])))


def _constants(activation: type[nn.Module]) -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5, bias=False), activation(), nn.Linear(5, 3))
    zeroed(net[0].weight, 0, [1, 4])  # constants φ(b), read by the next layer, which has no bias
    zeroed(net[2].weight, 0, [3])
    zeroed(net[4].weight, 1, [0])
    return net


def _grouped() -> nn.Module:
    net = nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 6, 3, groups=2), nn.ReLU(), nn.Conv1d(6, 4, 1, groups=2)
    )
    net = nn.Sequential(*net, nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[6].weight.reshape(2, 4, 4)[:, 2:] = 0  # nobody reads the second group of two
    return net


#: How each network is made, its inputs for so many samples, and the parameters that are left of it.
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], int]] = {
    "relu": (lambda: _constants(nn.ReLU), lambda m: torch.randn(m, 4), 47),
    "sigmoid": (lambda: _constants(nn.Sigmoid), lambda m: torch.randn(m, 4), 47),
    "images": (Images, lambda m: torch.randn(m, 2, 6, 6), 401),
    "joined": (Joined, lambda m: torch.randn(m, 2, 5, 5), 102),
    "encoder": (Encoder, lambda m: {"ids": torch.randint(0, 7, (m, 5)), "scale": torch.rand(m)}, 528),
    "recurrent": (Recurrent, lambda m: torch.randn(m, 4, 3), 182),
    "grouped": (_grouped, lambda m: torch.randn(m, 2, 8), 77),
}


def made(name: str, samples: int = 4) -> tuple[nn.Module, Any]:
    """A network in evaluation mode, and inputs of it."""
    torch.manual_seed(0)
    net, inputs, _ = NETS[name]
    return net().eval(), inputs(samples)
