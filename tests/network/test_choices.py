"""Numbers that are picked by a mask and put back, and composite functions without a name: exact, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from simplicit.errors import UnsupportedOperationError

W = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scaled(y: Tensor) -> Tensor:
    y[y < 0] *= 0.1
    y[y > 1] = 0.5
    return y


def logarithms(y: Tensor) -> Tensor:
    """Functions that other numbers have no value of."""
    mask = y > 0.2
    y[mask] = torch.log(y[mask] - 0.1) + 3 * torch.sqrt(y[mask])
    return y


def compared_again(y: Tensor) -> Tensor:
    """The mask is computed twice, and the tensor changes in between."""
    y[y > 1] -= y[y > 1] ** 2
    y[y < -1] = 1 / y[y < -1]
    return y


def experts(y: Tensor) -> Tensor:
    """Samples go through one of two layers."""
    out, first = torch.zeros_like(y), y[:, 0] > 0
    out[first] = torch.tanh(functional.linear(y[first], W))
    out[~first] = torch.softmax(y[~first], -1)
    return out


def tokens(y: Tensor) -> Tensor:
    """Some tokens of a sample go through a layer."""
    y = y.reshape(-1, 3, 2)
    out, some = torch.zeros_like(y), y.sum(-1) > 0
    out[some] = functional.layer_norm(functional.linear(y[some], W[:2, :2]), (2,)) + W[0, :2]
    out[~some] += 1
    return out.flatten(1)


def chosen(y: Tensor) -> Tensor:
    """Tokens of all samples in one row, each with the weights of its own two experts, as transformers' batched_mm."""
    tokens = y.reshape(-1, 2)
    weights, places = torch.softmax(functional.linear(tokens, W[:3, :2]), -1).topk(2, dim=-1)
    each = tokens.repeat_interleave(2, dim=0)
    out = torch.bmm(W[:, :2].reshape(3, 2, 2)[places.reshape(-1)], each.unsqueeze(-1)).squeeze(-1)
    return (out * weights.reshape(-1, 1)).view(tokens.shape[0], 2, 2).sum(1).reshape(y.shape[0], 6)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": scaled,
    "logarithms": logarithms,
    "compared again": compared_again,
    "experts": experts,
    "tokens": tokens,
    "scattered": lambda y: y.masked_scatter(y > 0, torch.sin(y[y > 0])),
    "chosen experts": chosen,
    "selected": lambda y: y.masked_scatter(y.abs() < 1, 2 * torch.masked_select(y, y.abs() < 1)),
    "trapezoid": lambda y: torch.trapezoid(y, dx=0.5)[:, None],
    "trapezoids so far": torch.cumulative_trapezoid,
    "quantiles": lambda y: torch.quantile(y, torch.tensor([0.25, 0.5]).double(), dim=1).T,
    "median": lambda y: y.nanmedian(1).values[:, None],
    "mean of what is there": lambda y: y.nanmean(1, keepdim=True),
    "divergence": lambda y: functional.kl_div(y, torch.softmax(y, 1), reduction="none"),
    "power of matrices": lambda y: torch.linalg.matrix_power(y[:, :4].reshape(-1, 2, 2), 3).flatten(1),
    "inverse": lambda y: torch.linalg.inv(y[:, :4].reshape(-1, 2, 2) + 9 * W[:2, :2]).flatten(1),
    "places of maxima": lambda y: functional.max_pool1d(y[:, None], 2, return_indices=True)[1].flatten(1).to(y.dtype),
}


QUICK = ("scaled", "tokens", "trapezoid")


class Several(nn.Module):
    """The results of functions side by side, so that the graph is captured only once."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layer, self.names = nn.Linear(4, 6), names

    def forward(self, u: Tensor) -> Tensor:
        return torch.cat([FUNCTIONS[name](self.layer(u)) for name in self.names], 1)


@cache
def several(names: tuple[str, ...]) -> tuple[nn.Module, sp.ImplicitModel]:
    torch.manual_seed(0)
    net = Several(names).double().eval()
    return net, sp.from_torch(net, torch.randn(3, 4, dtype=torch.float64))


OTHERS = tuple(name for name in FUNCTIONS if name not in QUICK)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_exact(name: str) -> None:
    names = QUICK if name in QUICK else OTHERS
    net, model = several(names)
    for m in (1, 7):
        u = torch.randn(m, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(m))
        with torch.no_grad():
            wanted = FUNCTIONS[name](net.layer(u))
            first = sum(FUNCTIONS[one](net.layer(u)).shape[1] for one in names[: names.index(name)])
        found = model.predict(u)[:, first : first + wanted.shape[1]]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_gradients_are_finite_where_nothing_is_picked() -> None:
    net, model = several(OTHERS)
    u = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    net(u).pow(2).sum().backward()
    wanted, u.grad = u.grad, None
    sp.to_torch(model)(u).pow(2).sum().backward()
    np.testing.assert_allclose(u.grad, wanted, rtol=1e-8, atol=1e-8)


class Of(nn.Module):
    """A function of a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(4, 6)

    def forward(self, u: Tensor) -> Tensor:
        return self.function(self.layer(u))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda y: y + y[y > 0].sum(), r"operation 'index' .* write torch\.where\(mask, x, y\)"),
        (lambda y: y.index_put((y > 0,), y[y <= 0][:1]), r"operation 'index' .* write torch\.where\(mask, x, y\)"),
        (lambda y: y.masked_scatter(y > 0, torch.sin(y)), r"operation 'masked_scatter' .* write torch\.where"),
    ],
)
def test_what_mixes_samples_is_refused_with_the_remedy(function: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=said):
        sp.from_torch(Of(function).eval(), torch.randn(3, 4))
