"""Networks with blocks, and their models, for tests of attacks and certificates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import simplicit as sp


class Encoder(nn.Module):
    """An encoder layer of a transformer on 4 tokens of width 8, and a head of 3 classes."""

    shape = (4, 8)

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(x).flatten(1))
        return result


class Gated(nn.Module):
    """A gated layer, and a head of 3 classes."""

    shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(nn.functional.silu(self.gate(x)) * self.value(x))
        return result


class Attentive(nn.Module):
    """A softmax between two layers: the only block has a Lipschitz constant."""

    shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(4.0 * self.first(x).softmax(dim=1))
        return result


NETWORKS = {"encoder": Encoder, "gated": Gated, "softmax": Attentive}


def made(name: str, dtype: torch.dtype, samples: int = 8) -> tuple[nn.Module, sp.ImplicitModel, Tensor]:
    """A random network, its model, and samples in [0, 1]."""
    torch.manual_seed(1)
    net = NETWORKS[name]().to(dtype).eval()
    inputs = torch.rand(samples, *net.shape, dtype=dtype)
    return net, sp.from_torch(net, inputs[:2]), inputs
