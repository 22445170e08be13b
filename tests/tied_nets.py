"""Small networks with convolutions, seeded, with norms that have seen data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fitting import Subject

__all__ = ["NETS", "Residual", "images", "made", "signals", "subject"]


class Residual(nn.Module):
    """A block that sums a branch and its input, with a projection where ``wide``; ReLU as a function."""

    def __init__(self, *, wide: bool = False, affine: bool = True) -> None:
        super().__init__()
        out = 6 if wide else 4
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, affine=affine)
        self.first = nn.Conv2d(4, out, 3, stride=2 if wide else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out, affine=affine)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out, affine=affine)
        self.project = nn.Conv2d(4, out, 1, stride=2) if wide else nn.Identity()
        self.linear = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        branch = self.norm2(self.second(functional.relu(self.norm1(self.first(x)))))
        x = functional.relu(branch + self.project(x))
        result: Tensor = self.linear(x.mean((2, 3)))
        return result


class PreActivation(nn.Module):
    """The sum is the stream; norm and ReLU come first. The last layer is a 1 x 1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding="same")
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(torch.relu(self.norm(x)))
        return self.head(torch.relu(x)).mean((2, 3))


def _plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)),
    )


def _depthwise() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False), nn.BatchNorm2d(4)),
        *(nn.ReLU(), nn.Conv2d(4, 8, 1, groups=2), nn.ReLU6(), nn.Flatten(), nn.Linear(8 * 49, 5)),
    )


def _without_norm() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 6, 3, dilation=2), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), nn.Linear(6, 5, bias=False)),
    )


def _signal() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(2, 4, 5, padding=2, padding_mode="circular"), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
    )


#: The networks by name, and whether they take signals rather than images.
NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": _plain,
    "residual": Residual,
    "projection": lambda: Residual(wide=True),
    "without affine": lambda: Residual(affine=False),
    "pre-activation": PreActivation,
    "depthwise": _depthwise,
    "without norm": _without_norm,
    "signal": _signal,
}


def images(m: int = 40, seed: int = 1) -> Tensor:
    return torch.rand(m, 3, 7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signals(m: int = 40, seed: int = 1) -> Tensor:
    return torch.rand(m, 2, 18, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name: str) -> tuple[nn.Module, Any]:
    """The network in evaluation mode and float64, and samples for it."""
    torch.manual_seed(0)
    net = NETS[name]().double()
    inputs = signals() if name == "signal" else images()
    net.train()
    with torch.no_grad():
        for seed in range(20):
            net(signals(seed=seed) if name == "signal" else images(seed=seed))
    return net.eval(), inputs


@cache
def subject(name: str) -> Subject:
    """The same, shared by all tests that leave it as it is."""
    return Subject(*made(name))
