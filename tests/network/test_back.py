"""Back to the network that came in, with the model's weights in their places."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.network import NetworkTemplate

P, Q = 12, 4


class Normalized(nn.Module):
    """Normalises its input; a weight in the transposed form, one in two parts, a buffer that no parameter is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(P))
        self.first = nn.Parameter(torch.randn(P, 9))
        self.shift = nn.Parameter(torch.randn(9))
        self.left, self.right = nn.Linear(9, 3), nn.Linear(9, 5)
        self.last = nn.Linear(8, Q)
        self.unused = nn.Linear(2, 2)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(0.5 * ((u - self.mean) / 0.3) @ self.first + self.shift)
        halves = torch.cat([self.right(x), self.left(x)], dim=1)
        result: Tensor = self.last(torch.nn.functional.leaky_relu(halves).flip(1))
        return result


class Norm(nn.Module):
    """A batch norm in evaluation mode, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.rand(width))
        self.register_buffer("mean", torch.rand(width))
        self.register_buffer("variance", torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.variance.sqrt() * self.weight + self.bias


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(P, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, Q)),
    "no bias": lambda: nn.Sequential(nn.Linear(P, 9, bias=False), nn.ReLU(), nn.Linear(9, Q, bias=False)),
    "not homogeneous": lambda: nn.Sequential(nn.Linear(P, 9), nn.Tanh(), nn.Linear(9, 7), nn.GELU(), nn.Linear(7, Q)),
    "norms": lambda: nn.Sequential(
        nn.Linear(P, 9), Norm(9), nn.ReLU(), nn.Linear(9, 7, bias=False), Norm(7), nn.ReLU(), nn.Linear(7, Q)
    ),
    "one layer": lambda: nn.Sequential(nn.Linear(P, Q)),
    "normalised": Normalized,
}  # fmt: skip


def samples(m: int = 60, seed: int = 1) -> Tensor:
    return torch.rand(m, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval()


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize(
    "options", [{"penalty": sp.L1(beta=0.01)}, {"preset": "sparse", "sparsity": 60}, {"preset": "robust"}]
)
def test_gives_what_the_model_gives(name: str, options: dict[str, object]) -> None:
    net = made(name)
    before = copy.deepcopy(net.state_dict())
    result = sp.fit(net, samples(), **options)  # type: ignore[arg-type]
    if name == "no bias" and result.options.robust:  # one-sided rows have constants, whatever the network has
        with pytest.raises(InputError, match="a constant in '1' that no bias of the network can hold"):
            result.to_baseline()
        return
    sparse = result.to_baseline()
    assert type(sparse) is type(net)
    assert not sparse.training
    U = samples(200, 2)
    torch.testing.assert_close(sparse(U), result.model.predict(U), rtol=1e-10, atol=1e-10)
    twin = NETWORKS[name]().double().eval()
    twin.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(twin(U), sparse(U), rtol=0, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    used = [value for key, value in sparse.named_parameters() if value.ndim > 1 and "unused" not in key]
    assert sum(int(value.count_nonzero()) for value in used) == result.model.nnz


def test_parameters_come_back_to_their_own_places_and_units() -> None:
    """With no penalty and many samples the fit is the network itself."""
    for name in ("layers", "no bias", "normalised"):
        net = made(name)
        result = sp.fit(net, 4 * samples(400) - 2, penalty=sp.NoPenalty(), kappa=None)  # no state is always off
        own, back = dict(net.named_parameters()), dict(result.to_baseline().named_parameters())
        for key, value in own.items():
            torch.testing.assert_close(back[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_networks_in_float32_stay_so() -> None:
    net = made("layers").float()
    result = sp.fit(net, samples().float(), sparsity=40)
    sparse, U = result.to_baseline(), samples(50, 2)
    assert {value.dtype for value in sparse.parameters()} == {torch.float32}
    torch.testing.assert_close(sparse(U.float()).double(), result.model.predict(U), rtol=1e-5, atol=1e-5)


def test_trained_further_in_torch() -> None:
    sparse = sp.fit(made("layers"), samples(), sparsity=40).to_baseline()
    sparse(samples()).square().sum().backward()
    assert all(value.grad is not None for value in sparse.parameters())


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(P, 9), nn.Linear(9, 9), nn.Linear(9, Q)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        x = torch.relu(self.second(x) + x)
        result: Tensor = self.last(x)
        return result


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(P, 9), nn.Linear(9, 9), nn.Linear(9, Q)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        result: Tensor = self.last(torch.relu(self.again(torch.relu(self.again(x)))))
        return result


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Linear(P, 8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, Q)),
            r"from 'input' to '2' is composed of several parameters or constants \('0.weight' and '1.weight'\), so "
            r"that .* put an activation between",
        ),
        (Skip(), r"from 'relu' to 'relu_1' is composed .*'second.weight'"),
        (Shared(), r"parameter 'again.weight' stands at several places of M"),
        (
            nn.Sequential(nn.Linear(P, 8), nn.ReLU(), nn.Linear(8, Q, bias=False)),
            r"a constant in 'output' that no bias .* give that layer a bias of its own",
        ),
    ],
)
def test_what_has_no_place_in_the_network(net: nn.Module, message: str) -> None:
    result = sp.fit(net.double().eval(), samples())
    with pytest.raises(InputError, match=message):
        result.to_baseline()


class Around(nn.Module):
    """A state that goes straight to the output as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(P, Q), nn.Linear(Q, Q)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        return torch.relu(self.second(x)) + x


def test_constants_of_the_network() -> None:
    result = sp.fit(Around().double().eval(), samples(), penalty=sp.L1(beta=0.1))
    with pytest.raises(InputError, match=r"is a constant of the network \(a skip connection\)"):
        result.to_baseline()


@pytest.mark.parametrize("structure", ["dense", "no-self", "feedforward"])
def test_other_structures_have_no_network(structure: str) -> None:
    result = sp.fit(made("no bias"), samples(), structure=structure)
    with pytest.raises(InputError, match=f"structure '{structure}' has weights where the network has none"):
        result.to_baseline()


def test_a_model_of_another_pattern() -> None:
    net = made("no bias")
    result = sp.fit(net, samples())
    assert result.origin is not None
    n = result.model.n_states
    full = ImplicitModel.from_matrices(
        np.triu(np.ones((n, n)), 1), result.model.B, result.model.C, result.model.D, activation=result.model.groups
    )
    with pytest.raises(InputError, match=r"from '1' to '1' has weights where the network has none"):
        NetworkTemplate(result.origin.captured).network(full)
