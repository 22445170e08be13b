"""Networks for the tests of the package: one class or function each, as users write them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["ACTIVATIONS", "NETWORKS", "Function"]


class Function(nn.Module):
    """A network without parameters of its own, from a function of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, u: Tensor) -> Tensor:
        return self.function(u)


class EveryForm(nn.Module):
    """One activation as module, as function and in place."""

    def __init__(self, module: nn.Module, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.act = module
        self.functions = functions

    def forward(self, u: Tensor) -> Tensor:
        x = self.act(self.first(u))
        for function in self.functions:
            x = function(2.0 * x - 0.5)
        return self.last(x)


ACTIVATIONS: dict[str, EveryForm] = {
    "relu": EveryForm(nn.ReLU(), torch.relu, functional.relu_),
    "leaky_relu": EveryForm(
        nn.LeakyReLU(0.2),
        partial(functional.leaky_relu, negative_slope=0.2),
        partial(functional.leaky_relu_, negative_slope=0.2),
    ),
    "abs": EveryForm(Function(torch.abs), torch.abs, torch.abs_),
    "tanh": EveryForm(nn.Tanh(), torch.tanh, torch.tanh_),
    "sigmoid": EveryForm(nn.Sigmoid(), torch.sigmoid, torch.sigmoid_),
    "hardtanh": EveryForm(
        nn.Hardtanh(-0.5, 0.75),
        partial(functional.hardtanh, min_val=-0.5, max_val=0.75),
        partial(functional.hardtanh_, min_val=-0.5, max_val=0.75),
        partial(torch.clamp, min=-0.5, max=0.75),
        partial(torch.clamp_, min=-0.5, max=0.75),
    ),
    "softplus": EveryForm(nn.Softplus(2.0, 15.0), partial(functional.softplus, beta=2.0, threshold=15.0)),
    "elu": EveryForm(nn.ELU(0.7), partial(functional.elu, alpha=0.7), partial(functional.elu_, alpha=0.7)),
    "gelu": EveryForm(nn.GELU(), functional.gelu),
    "gelu_tanh": EveryForm(nn.GELU("tanh"), partial(functional.gelu, approximate="tanh")),
    "silu": EveryForm(nn.SiLU(), functional.silu, partial(functional.silu, inplace=True)),
}


def mlp(*, bias: bool) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8, bias=bias), nn.ReLU(), nn.Linear(8, 4, bias=bias), nn.ReLU(), nn.Linear(4, 3, bias=bias)
    )


def nested() -> nn.Module:
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.5))
    return nn.Sequential(nn.Linear(5, 6), nn.Identity(), nn.Sequential(block, nn.Sequential(nn.ReLU(inplace=True))))


def image_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 9, bias=False), nn.ReLU(inplace=True), nn.Linear(9, 4))


def pure_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 6, bias=False), nn.Linear(6, 2))


class Viewed(nn.Module):
    """Images flattened by view, and shaped again inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(2, 3)

    def forward(self, u: Tensor) -> Tensor:
        x = functional.relu(self.first(u.view(u.size(0), -1)))
        x = torch.tanh(self.second(x.reshape(-1, 4, 2)))
        return x.permute(0, 2, 1).flatten(1)


class InPlaceTrap(nn.Module):
    """The pre-activation is overwritten, and the skip path must read the new values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.out = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, u: Tensor) -> Tensor:
        x = self.first(u)
        functional.relu_(x)
        return self.out(x + self.other(u))


class ChangedViews(nn.Module):
    """Views of a tensor that is changed in place, and a tensor that is changed through its views."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, u: Tensor) -> Tensor:
        x = self.first(u)
        left, right = x[:, :3], x[:, 3:]
        functional.relu_(left)
        right.mul_(0.5).tanh_()
        x[:, 0] = 1.0
        x += 0.25
        return self.out(x) - left


class ChangedInput(nn.Module):
    """The input itself is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 2)

    def forward(self, u: Tensor) -> Tensor:
        return self.out(functional.relu_(u))


class Residual(nn.Module):
    """One activation object and one Linear used twice, with skips before and after the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, u: Tensor) -> Tensor:
        x = self.act(self.stem(u))
        x = x + self.act(self.shared(x))
        x = self.act(x + self.shared(x))
        return self.out(x)


class Dense(nn.Module):
    """Concatenation of everything so far, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5 + 4 * k, 4) for k in range(3))
        self.out = nn.Linear(17, 2)

    def forward(self, u: Tensor) -> Tensor:
        for layer in self.layers:
            u = torch.cat([u, functional.elu(layer(u))], dim=1)
        return self.out(u)


class Sliced(nn.Module):
    """Slices, chunks, single features, strides and fixed permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(6, 8), nn.Linear(11, 3)

    def forward(self, u: Tensor) -> Tensor:
        x = self.first(u)
        a, b = x.chunk(2, dim=1)
        c, d = torch.split(torch.sigmoid(a), [1, 3], dim=1)
        return self.out(torch.cat([functional.relu(b), c, d[:, ::2], x[:, [7, 0]], x[:, -1:], u[..., 2, None]], dim=1))


class Constants(nn.Module):
    """Scaling, shifting, masks and normalisation by constants, buffers and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.randn(5))
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True]))
        self.scale = nn.Parameter(torch.rand(1, 6) + 0.5)

    def forward(self, u: Tensor) -> Tensor:
        x = self.first((u - self.mean) / 0.3081)
        x = functional.leaky_relu(2 * x * self.mask - 1.5)
        x = torch.sub(1, x, alpha=3) / self.scale
        return 0.1 * self.out(-x) + torch.arange(2)


class Computed(nn.Module):
    """Weights that are computed from parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.register_buffer("mask", (torch.rand(4, 5) > 0.5).float(), persistent=False)
        self.gate = nn.Parameter(torch.randn(4))
        self.normed = weight_norm(nn.Linear(4, 3))

    def forward(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            weight = self.weight * self.mask
        x = functional.linear(u, weight) * torch.sigmoid(self.gate)
        return self.normed(functional.silu(x)) @ torch.softmax(self.weight[:3, :3], dim=0)


class Mixer(nn.Module):
    """Linear layers over tokens and over channels, (b, t, d), with means at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels, self.out = nn.Linear(3, 3), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, u: Tensor) -> Tensor:
        x = u + functional.gelu(self.tokens(u.transpose(1, 2))).transpose(1, 2)
        x = x + functional.gelu(self.channels(x))
        return self.out(x.mean(dim=1)) + x.sum((1, 2), keepdim=True).squeeze(1)


class Recurrent(nn.Module):
    """A hidden state from zeros, of a size that depends on the number of samples; the same modules at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.step, self.start = nn.Linear(4, 4), nn.Linear(2, 4), nn.Parameter(torch.randn(1, 4))

    def forward(self, u: Tensor) -> Tensor:
        h = torch.zeros(u.shape[0], 4, dtype=u.dtype) + self.start.expand(u.shape[0], -1)
        for x in u.unbind(dim=1):
            h = torch.tanh(self.hidden(h) + self.step(x))
        return h


class Scalar(nn.Module):
    """One number per sample, without a feature dimension, by a squeeze that would also drop a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, u: Tensor) -> Tensor:
        return self.out(torch.maximum(self.first(u), u.new_zeros(6))).squeeze()


class Tied(nn.Module):
    """Encoder and decoder with one weight; written with matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.encoder = nn.Linear(5, 3)
        self.encoder.weight = self.weight

    def forward(self, u: Tensor) -> Tensor:
        h = functional.softplus(self.encoder(u))
        return torch.addmm(u.new_ones(5), torch.relu(h), self.weight, beta=0.5, alpha=2.0)


class DeadBranch(nn.Module):
    """States that do not reach the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.out = nn.Linear(5, 4), nn.Linear(4, 9), nn.Linear(4, 2)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        torch.softmax(torch.relu(self.unused(x)), dim=1)
        return self.out(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp with bias": (partial(mlp, bias=True), (5,)),
    "mlp without bias": (partial(mlp, bias=False), (5,)),
    "nested sequential": (nested, (5,)),
    "flattened image": (image_mlp, (1, 28, 28)),
    "pure linear": (pure_linear, (5,)),
    "views": (Viewed, (3, 4)),
    "in-place trap": (InPlaceTrap, (5,)),
    "changed views": (ChangedViews, (5,)),
    "changed input": (ChangedInput, (5,)),
    "residual, shared modules": (Residual, (5,)),
    "dense connections": (Dense, (5,)),
    "slices": (Sliced, (6,)),
    "constants": (Constants, (5,)),
    "computed weights": (Computed, (5,)),
    "mixer": (Mixer, (3, 4)),
    "recurrent": (Recurrent, (3, 2)),
    "scalar output": (Scalar, (5,)),
    "tied weight": (Tied, (5,)),
    "dead branch": (DeadBranch, (5,)),
    "activation first and last": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(5, 3), nn.Sigmoid()), (5,)),
    "identity": (nn.Identity, (2, 2)),
    **{name: (partial(copy.deepcopy, net), (5,)) for name, net in ACTIVATIONS.items()},
}
