"""Small networks with units of all kinds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NETS", "Gated", "made"]


class Gated(nn.Module):
    """A Llama-like block: norm, attention with rotated queries and keys, and a gated layer, on a residual stream."""

    def __init__(self, heads: int = 2, width: int = 8, hidden: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 3)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def rotated(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=-1)
        return x * 0.6 + torch.cat([-other, one], dim=-1) * 0.8

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (self.split(part(y)) for part in (self.q, self.k, self.v))
        scores = torch.softmax(self.rotated(q) @ self.rotated(k).transpose(-1, -2), dim=-1)
        x = x + self.o((scores @ v).transpose(1, 2).reshape(x.shape))
        y = self.norm2(x)
        x = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        result: Tensor = self.head(x.mean(1))
        return result


class Excited(nn.Module):
    """Channels that are scaled by what is computed from their means, and joined with others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 4, 3)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.second = nn.Conv2d(10, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first(x))
        scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3))))))
        y = torch.cat([y * scale[:, :, None, None], functional.relu(self.beside(x))], dim=1)
        result: Tensor = self.head(functional.relu(self.second(y)).mean((2, 3)))
        return result


class Residual(nn.Module):
    """Two convolutions on a skip path, whose sum several layers add to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.first, self.norm1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.norm2(self.second(functional.relu(self.norm1(self.first(x))))))
        result: Tensor = self.linear(x.mean((2, 3)))
        return result


def _vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3)),
    )


def _encoder() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(8, 4, 10, batch_first=True), nn.Flatten(), nn.Linear(40, 3))


#: How each network is made, the shape of a sample, and its widths: how many units, with so many rows in each layer and
#: so many columns.
Widths = list[tuple[int, dict[str, int], dict[str, int]]]
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Widths]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        (9,),
        [(8, {"0": 1}, {"2": 1}), (6, {"2": 1}, {"4": 1})],
    ),
    "vgg": (
        _vgg,
        (3, 8, 8),
        [(6, {"0": 1, "4": 1}, {"6": 1}), (5, {"6": 1}, {"10": 4}), (7, {"10": 1}, {"13": 1})],
    ),
    "residual": (Residual, (3, 6, 6), [(6, {"first": 1}, {"second": 9})]),
    "excited": (
        Excited,
        (3, 6, 6),
        [
            (6, {"first": 1, "excite": 1}, {"squeeze": 1, "second": 9}),
            (4, {"beside": 1}, {"second": 9}),
            (3, {"squeeze": 1}, {"excite": 1}),
            (5, {"second": 1}, {"head": 1}),
        ],
    ),
    "encoder": (
        _encoder,
        (5, 8),
        [(4, {"0.self_attn.in_proj_weight": 6}, {"0.self_attn.out_proj": 2}), (10, {"0.linear1": 1}, {"0.linear2": 1})],
    ),
    "gated": (Gated, (5, 8), [(2, {"q": 4, "k": 4, "v": 4}, {"o": 4}), (6, {"gate": 1, "up": 1}, {"down": 1})]),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network, seeded, in float64 and evaluation mode, with norms that have seen data; and samples."""
    torch.manual_seed(0)
    make, shape, _ = NETS[name]
    net, inputs = make().double(), torch.rand(60, *shape, dtype=torch.float64)
    with torch.no_grad():
        net.train()(inputs)
    return net.eval(), inputs
