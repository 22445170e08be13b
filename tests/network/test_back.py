"""Back to the network that came in, with the model's weights in their places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from fitting import Subject
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


@cache
def made(name: str) -> Subject:
    torch.manual_seed(0)
    return Subject(NETWORKS[name]().double().eval(), samples())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("recipe", [sp.Matching(sp.L1(beta=0.01)), sp.Sparse(60), sp.Robust()])
def test_gives_what_the_model_gives(name: str, recipe: sp.training.Recipe) -> None:
    own = made(name)
    before = copy.deepcopy(own.net.state_dict())
    result = own.fit(recipe)
    if name == "no bias" and isinstance(recipe, sp.Robust):  # one-sided rows have constants, whatever the network has
        with pytest.raises(InputError, match="a constant in '1' that no bias of the network can hold"):
            result.network()
        return
    sparse = result.network()
    assert type(sparse) is type(own.net)
    assert not sparse.training
    U = samples(200, 2)
    torch.testing.assert_close(sparse(U), result.model.predict(U), rtol=1e-10, atol=1e-10)
    twin = NETWORKS[name]().double().eval()
    twin.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(twin(U), sparse(U), rtol=0, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in own.net.state_dict().items())
    used = [value for key, value in sparse.named_parameters() if value.ndim > 1 and "unused" not in key]
    assert sum(int(value.count_nonzero()) for value in used) == result.nnz


@pytest.mark.parametrize("name", ["layers", "no bias", "normalised"])
def test_parameters_come_back_to_their_own_places_and_units(name: str) -> None:
    """With no penalty and many samples the fit is the network itself."""
    result = made(name).fit(sp.Matching(sp.NoPenalty()), 4 * samples(400) - 2)  # no state is always off
    own, back = dict(made(name).net.named_parameters()), dict(result.network().named_parameters())
    for key, value in own.items():
        torch.testing.assert_close(back[key], value, rtol=1e-6, atol=1e-6, msg=key)


@cache
def single() -> Subject:
    torch.manual_seed(0)
    return Subject(NETWORKS["layers"]().eval(), samples().float())


@pytest.mark.parametrize("recipe", [sp.Matching(sparsity=40), sp.Sparse(40)])
def test_networks_in_float32_stay_so(recipe: sp.training.Recipe) -> None:
    result = single().fit(recipe)
    sparse, U = result.network(), samples(50, 2)
    assert {value.dtype for value in sparse.parameters()} == {torch.float32}
    torch.testing.assert_close(
        sparse(U.float()).double(), torch.as_tensor(result.model.predict(U)).double(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("recipe", [sp.Matching(sparsity=40), sp.Sparse(40)])
def test_trained_further_in_torch(recipe: sp.training.Recipe) -> None:
    sparse = made("layers").fit(recipe).network()
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


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Linear(P, 8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, Q)),
            r"from 'input' to '2' is composed of several parameters or constants \('0.weight' and '1.weight'\), so "
            r"that .* put an activation between",
        ),
        (Skip(), r"from 'relu' to 'relu_1' is composed .*'second.weight'"),
        (
            nn.Sequential(nn.Linear(P, 8), nn.ReLU(), nn.Linear(8, Q, bias=False)),
            r"a constant in 'output' that no bias .* give that layer a bias of its own",
        ),
    ],
)
def test_what_has_no_place_in_the_network(net: nn.Module, message: str) -> None:
    """A ball is that of M as a whole; without one the layers are fitted, each by itself."""
    own = Subject(net.double().eval(), samples())
    result = own.fit(sp.Matching(kappa=50.0))
    with pytest.raises(InputError, match=message):
        result.network()
    result, U = own.fit(sp.Matching()), samples(9, 2)
    torch.testing.assert_close(result.network()(U), result.model.predict(U), rtol=1e-10, atol=1e-10)


def test_rows_of_channels_have_a_place_in_such_networks_too() -> None:
    """Each layer is trained by itself, so that nothing has to be taken apart."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(P, 8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, Q, bias=False))
    for own in (Subject(net.double().eval(), samples()), Subject(Skip().double().eval(), samples())):
        result = own.fit(sp.Sparse(50))
        sparse, U = result.network(), samples(50, 2)
        torch.testing.assert_close(sparse(U), result.model.predict(U), rtol=1e-10, atol=1e-10)
        assert sum(int(p.count_nonzero()) for p in sparse.parameters() if p.ndim > 1) == result.nnz


class Around(nn.Module):
    """A state that goes straight to the output as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(P, Q), nn.Linear(Q, Q), nn.Linear(Q, Q)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        return self.third(torch.relu(self.second(x))) + x


class AroundTheLast(Around):
    """The same to the output, where nothing else is trained."""

    def forward(self, u: Tensor) -> Tensor:
        x = torch.relu(self.first(u))
        return torch.relu(self.second(x)) + x


def test_constants_of_the_network() -> None:
    kept = Subject(AroundTheLast().double().eval(), samples()).fit(sp.Matching(sp.L1(beta=0.1)))
    torch.testing.assert_close(kept.network()(samples(9, 2)), kept.model.predict(samples(9, 2)), rtol=0, atol=1e-12)
    result = Subject(Around().double().eval(), samples()).fit(sp.Matching(sp.L1(beta=0.1), kappa=50.0))
    with pytest.raises(InputError, match=r"is a constant of the network \(a skip connection, or an act"):
        result.network()


@pytest.mark.parametrize("structure", ["dense", "no-self", "feedforward"])
def test_other_structures_have_no_network(structure: str) -> None:
    result = made("no bias").fit(sp.Matching(structure=structure))
    with pytest.raises(InputError, match=f"structure '{structure}' has weights where the network has none"):
        result.network()


def test_a_model_of_another_pattern() -> None:
    model = made("no bias").captured.model
    n = model.n_states
    full = ImplicitModel.from_matrices(np.triu(np.ones((n, n)), 1), model.B, model.C, model.D, activation=model.groups)
    with pytest.raises(InputError, match=r"from '1' to '1' has weights where the network has none"):
        NetworkTemplate(made("no bias").captured).network(full)
