"""Cells for tests, each with its examples, and their equilibria by plain iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

M, P = 5, 4
F64 = torch.float64


def shrunk(layer: nn.Module, to: float) -> nn.Module:
    """The layer with rows of absolute sum ``to`` at most."""
    with torch.no_grad():
        layer.weight *= to / layer.weight.abs().flatten(1).sum(1).max()
    return layer


class Elementwise(nn.Module):
    """x = φ(W x + V u + b), the textbook's deep equilibrium layer."""

    def __init__(self, phi: Callable[[Tensor], Tensor] = torch.tanh, n: int = 6, norm: float = 0.8) -> None:
        super().__init__()
        self.inner, self.outer, self.phi = shrunk(nn.Linear(n, n, bias=False), norm), nn.Linear(P, n), phi

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return self.phi(self.inner(x) + self.outer(u))


class Damped(Elementwise):
    """A damped step, whose equilibria are those of the undamped one."""

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return 0.75 * x + 0.25 * super().forward(x, u)


class Residual(Elementwise):
    """The state reaches itself by a linear map, too."""

    def __init__(self) -> None:
        super().__init__(norm=0.4)
        self.skip = shrunk(nn.Linear(6, 6), 0.4)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return super().forward(x, u) + self.skip(x)


class Two(nn.Module):
    """Two states, one of them shifted onto itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (shrunk(nn.Linear(*sizes), 0.45) for sizes in ((5, 5), (5, 3), (3, 5)))
        self.outer = nn.Linear(P, 5)

    def forward(self, x: Tensor, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.a(x) + self.c(h) + self.outer(u)), self.b(torch.sigmoid(x)) + 0.1 * h.flip(1)


class Softmax(Elementwise):
    """A cycle through a block with a constant, 1/2."""

    def __init__(self) -> None:
        super().__init__(lambda z: torch.softmax(z, dim=-1), norm=1.5)


class Normed(Elementwise):
    """A norm on the way in, outside of the cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + self.norm(self.outer(u)))


class Wide(nn.Module):
    """A state of few numbers through many hidden ones: the product of both maps is larger than they are."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.outer = nn.Linear(3, 20), shrunk(nn.Linear(20, 3), 0.5), nn.Linear(P, 20)
        shrunk(self.up, 1.0)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x) + self.outer(u)))


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = shrunk(nn.Conv2d(2, 2, 3, padding=1), 0.8)
        self.outer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.relu(self.inner(x) + self.outer(u))


def zeros(*shape: int) -> Tensor:
    return torch.zeros(M, *shape, dtype=F64)


#: What makes a cell, and the shapes of its states and its input.
CELLS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "tanh": (Elementwise, ((6,),), (P,)),
    "leaky_relu": (lambda: Elementwise(nn.functional.leaky_relu), ((6,),), (P,)),
    "chain": (lambda: Elementwise(lambda z: 0.5 * torch.sigmoid(1.7 * z)), ((6,),), (P,)),
    "damped": (Damped, ((6,),), (P,)),
    "residual": (Residual, ((6,),), (P,)),
    "two": (Two, ((5,), (3,)), (P,)),
    "softmax": (Softmax, ((6,),), (P,)),
    "normed": (Normed, ((6,),), (P,)),
    "wide": (Wide, ((3,),), (P,)),
    "convolved": (Convolved, ((2, 3, 4),), (1, 3, 4)),
}


def made(name: str, samples: int = M) -> tuple[nn.Module, Any, Tensor]:
    """A cell in float64, its state (a tuple where there are several) and inputs."""
    torch.manual_seed(3)
    make, states, given = CELLS[name]
    cell = make().double().eval()
    found = tuple(torch.zeros(samples, *shape, dtype=F64) for shape in states)
    return cell, found if len(found) > 1 else found[0], torch.randn(samples, *given, dtype=F64)


def step(cell: nn.Module, x: Any, u: Tensor) -> Any:
    return cell(*x, u) if isinstance(x, tuple) else cell(x, u)


def rest(cell: nn.Module, x: Any, u: Tensor, steps: int = 400) -> Any:
    """The equilibrium by plain iteration, through which autograd goes."""
    for _ in range(steps):
        x = step(cell, x, u)
    return x


def flat(x: Any) -> Tensor:
    return torch.cat([one.flatten(1) for one in x], dim=1) if isinstance(x, tuple) else x.flatten(1)
