"""Cells fitted on their own equilibria: exact where nothing is asked, proved well-posed whatever the cell was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from cells import F64, Convolved, Elementwise, P, Residual, flat, made, rest, shrunk
from simplicit.errors import InputError
from simplicit.network import CellModel


def model_of(
    cell: nn.Module, n: int = 6, readout: nn.Module | None = None, samples: int = 80
) -> tuple[CellModel, torch.Tensor]:
    u = torch.randn(samples, P, dtype=F64, generator=torch.Generator().manual_seed(0))
    return sp.from_cell(cell.double().eval(), torch.zeros(samples, n, dtype=F64), u, readout, check=False), u


@pytest.mark.parametrize(
    "name", ["leaky_relu", pytest.param("two", marks=pytest.mark.slow), pytest.param("damped", marks=pytest.mark.slow)]
)
def test_without_a_penalty_the_cell_comes_back(name: str) -> None:
    cell, state, u = made(name, 80)
    model = sp.from_cell(cell, state, u)
    result = sp.fit(model, u, sp.Matching(sp.L1(1e-10)), executor="serial")
    assert bool(result.rows.converged.all())
    assert float((result.model.predict(u) - model.predict(u)).abs().max()) < 1e-4
    back = result.network()
    assert type(back) is type(cell)
    if name == "two":
        return  # a ReLU of it is never on, so that nothing is known of what reads it
    for mine, theirs in zip(back.parameters(), cell.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=0.0, atol=1e-3)


def test_half_of_the_weights_leave_a_cell_proved_and_close() -> None:
    torch.manual_seed(0)
    cell = Elementwise(n=8)
    model, u = model_of(cell, 8)
    result = sp.fit(model, u, sp.Sparse(50), executor="serial")
    assert result.sparsity >= 50
    assert sp.perron_frobenius(result.model).upper < 1
    assert "well-posed" in result.summary()
    assert result.layers[0].error < 0.05
    back = result.network()
    assert int((back.inner.weight != 0).sum() + (back.outer.weight != 0).sum()) == result.nnz
    with torch.no_grad():
        x = rest(back, torch.zeros(len(u), 8, dtype=F64), u)
    assert float((result.model.predict(u) - x).abs().max()) < 1e-9


@pytest.mark.parametrize("recipe", [sp.Sparse(40), sp.Matching(sp.L1(1e-4), kappa=0.7)])
def test_what_comes_out_of_an_unproved_cell_is_proved(recipe: sp.Sparse | sp.Matching) -> None:
    torch.manual_seed(0)
    model, u = model_of(Elementwise(n=8, norm=2.5), 8)
    assert sp.perron_frobenius(model).lower > 1
    result = sp.fit(model, u, recipe, executor="serial")
    assert sp.perron_frobenius(result.model).upper <= (getattr(recipe, "kappa", None) or 0.99) + 1e-9
    again = sp.from_cell(result.network(), torch.zeros(len(u), 8, dtype=F64), u)  # and the cell is, too
    assert float((again.predict(u) - result.model.predict(u)).abs().max()) < 1e-8
    assert result.layers[0].error < 0.05


@pytest.mark.slow
def test_blocks_and_a_readout() -> None:
    torch.manual_seed(0)
    readout = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    cell = Elementwise(lambda z: torch.softmax(z, dim=-1), norm=3.0)
    model, u = model_of(cell, 6, readout)
    result = sp.fit(model, u, sp.Matching(sp.L1(1e-5)), executor="serial")
    assert sp.perron_frobenius(result.model).upper <= 0.99 + 1e-9
    assert [layer.name for layer in result.layers] == ["cell.softmax", "readout.1", "output"]
    back = result.network()
    with torch.no_grad():
        y = back["readout"](rest(back["cell"], torch.zeros(len(u), 6, dtype=F64), u))
    assert float((result.model.predict(u) - y).abs().max()) < 1e-9


def test_an_input_that_is_added_as_it_is_stays() -> None:
    injected = Injected()
    plain, v = model_of(injected, P)
    found = sp.fit(plain, v, sp.Sparse(25), executor="serial")
    assert isinstance(found.network(), Injected)
    assert found.weight_count == P * P
    assert found.nnz == 12


class Injected(nn.Module):
    """The input is added as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(P, P)
        nn.init.uniform_(self.inner.weight, -0.2, 0.2)

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(x) + u)


@pytest.mark.slow
def test_a_state_of_its_own_is_fitted_too() -> None:
    torch.manual_seed(0)
    model, u = model_of(Residual())
    result = sp.fit(model, u, sp.Sparse(30), executor="serial")
    assert {layer.name for layer in result.layers} == {"state", "cell.tanh"}
    back = result.network()
    with torch.no_grad():
        x = rest(back, torch.zeros(len(u), 6, dtype=F64), u)
    assert float((result.model.predict(u) - flat(x)).abs().max()) < 1e-8


def test_what_does_not_suit_a_cell_is_refused() -> None:
    torch.manual_seed(0)
    model, u = model_of(Elementwise())
    for recipe, argument in (
        (sp.Robust(), "recipe"),
        (sp.Matching(structure="dense"), "structure"),
        (sp.Matching(kappa=1.0), "kappa"),
        (sp.Matching(propagate=True), "propagate"),
        (sp.Matching(states=("cell.tanh",), structure="dense"), "structure"),
        (sp.Sparse(50, layers={"x": None}), "layers"),
    ):
        with pytest.raises(InputError) as raised:
            sp.fit(model, u, recipe)
        assert raised.value.argument == argument
    with pytest.raises(InputError, match="one output"):
        sp.fit(model, u, output="0")
    with pytest.raises(InputError, match="samples first"):
        sp.fit(model, u[:, :2])
    with pytest.raises(InputError, match="scaled state"):
        sp.fit(*model_of(Doubled()), sp.Sparse(30))
    twice = sp.from_cell(Twice().double().eval(), torch.zeros(3, 6, dtype=F64), torch.zeros(3, 6, dtype=F64))
    with pytest.raises(InputError, match=r"a weight of the cell is used in 'cell.tanh' and in 'cell.relu'"):
        sp.fit(twice, np.zeros((3, 6)))


class Doubled(Elementwise):
    """Twice the state, and more, without weights."""

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(torch.tanh(x)) + self.outer(u)) + 1.5 * x.flip(1)


class Twice(nn.Module):
    """One layer before two groups of states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = shrunk(nn.Linear(6, 6), 0.8)

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(torch.relu(self.inner(x) + u)))


class Tokens(nn.Module):
    """A layer on each of five tokens, with what is added to their places."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = shrunk(nn.Linear(3, 3, bias=False), 0.8), nn.Linear(P, 3)
        self.places = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(x) + self.outer(u) + self.places)


class GatedImages(nn.Module):
    """A convolutional gated recurrent unit."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.r, self.n = (shrunk(nn.Conv2d(3, 2, 3, padding=1), 1.0) for _ in range(3))

    def forward(self, h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        x = torch.cat([u, h], 1)
        z, r = torch.sigmoid(self.z(x)), torch.sigmoid(self.r(x))
        return z * h + (1 - z) * torch.tanh(self.n(torch.cat([u, r * h], 1)))


@pytest.mark.parametrize(
    ("kind", "state", "given", "weights"),
    [
        (Convolved, (2, 3, 4), (1, 3, 4), 54),
        (Tokens, (5, 3), (5, P), 21),
        pytest.param(GatedImages, (2, 3, 3), (1, 3, 3), 108, marks=pytest.mark.slow),
    ],
)
def test_rows_that_share_weights_are_fitted_once_and_come_back(
    kind: type[nn.Module], state: tuple[int, ...], given: tuple[int, ...], weights: int
) -> None:
    torch.manual_seed(0)
    cell = kind().double().eval()
    u, zeros = torch.randn(40, *given, dtype=F64), torch.zeros(40, *state, dtype=F64)
    model = sp.from_cell(cell, zeros, u)
    same = sp.fit(model, u, sp.Matching(sp.L1(1e-10)), executor="serial")
    assert sum(layer.weights for layer in same.layers) == model.captured.weight_count == weights
    for mine, theirs in zip(same.network().parameters(), cell.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=0.0, atol=1e-5)
    result = sp.fit(model, u, sp.Sparse(40), executor="serial", throw=False)
    back = result.network()
    assert type(back) is kind
    assert result.nnz <= 0.6 * weights
    assert sp.perron_frobenius(result.model).upper < 1
    with torch.no_grad():
        x = rest(back, zeros, u)
    assert float((result.model.predict(u).flatten(1) - flat(x)).abs().max()) < 1e-8
