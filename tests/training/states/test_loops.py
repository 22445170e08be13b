"""Cells fitted on their own equilibria: exact where nothing is asked, proved well-posed whatever the cell was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from cells import F64, Convolved, Elementwise, P, Residual, flat, made, rest
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
    convolved = sp.from_cell(Convolved().double().eval(), *(torch.zeros(3, c, 3, 4, dtype=F64) for c in (2, 1)))
    with pytest.raises(InputError, match="tied over positions"):
        sp.fit(convolved, np.zeros((3, 1, 3, 4)))


class Doubled(Elementwise):
    """Twice the state, and more, without weights."""

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(torch.tanh(x)) + self.outer(u)) + 1.5 * x.flip(1)
