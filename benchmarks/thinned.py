"""Networks with zeros in their weights, as the benchmarks of what zeros buy have them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

PERCEPTRON = (784, 64, 32, 16, 10)


def thinned(widths: tuple[int, ...], share: float) -> nn.Module:
    """A perceptron with so many per cent zeros in each layer."""
    torch.manual_seed(0)
    pairs = pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1]
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                layer.weight *= torch.rand_like(layer.weight) >= share / 100
    return nn.Sequential(*layers).eval()
