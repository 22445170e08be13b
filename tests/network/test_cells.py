"""Cells at rest against plain iteration and autograd through it, which know nothing of implicit models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from cells import CELLS, F64, Elementwise, M, P, Residual, Wide, flat, made, rest, shrunk, step, zeros
from simplicit.errors import InputError, NotWellPosedError
from simplicit.network import TrainingModeWarning


@cache
def model_of(name: str) -> sp.network.CellModel:
    return sp.from_cell(*made(name))


@pytest.mark.parametrize("name", CELLS)
def test_the_model_is_the_cell_at_rest(name: str) -> None:
    cell, state, u = made(name)
    model = model_of(name)
    with torch.no_grad():
        x = rest(cell, state, u)
        assert float((flat(step(cell, x, u)) - flat(x)).abs().max()) < 1e-13
    found = sp.equilibrium(model, u, 1e-12)
    assert found.method == "picard"
    y = model.predict(u)
    assert float((y - flat(x)).abs().max()) < 1e-9
    assert float(sp.perron_frobenius(model).upper) < 1
    for samples in (1, 7):
        _, more, v = made(name, samples)
        with torch.no_grad():
            assert float((model.predict(v) - flat(rest(cell, more, v))).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["residual", "softmax", "normed"])
def test_all_methods_find_the_same_with_a_bound_that_holds(name: str) -> None:
    (cell, state, u), model = made(name), model_of(name)
    exact = sp.equilibrium(model, u, 1e-14, method="newton").states
    with torch.no_grad():
        assert float((model.output_equation.outputs(exact, u) - flat(rest(cell, state, u))).abs().max()) < 1e-12
    for dtype in ("float64", "float32"):
        typed = model.astype(dtype)
        for method in ("picard", "newton", "anderson"):
            found = sp.equilibrium(typed, u.to(getattr(torch, dtype)), 1e-8, method=method)
            assert found.method == method
            assert found.iterations > 0
            wide = typed.astype("float64")
            there = sp.equilibrium(wide, u.to(getattr(torch, dtype)).double(), 1e-14, method="newton").states
            error = (found.states.double() - there).abs().amax(dim=1)
            assert bool((error <= found.error_bound + 1e-13).all())
            assert float(found.error_bound.max()) < (1e-7 if dtype == "float64" else 1e-2)


@pytest.mark.parametrize("name", ["residual", "two", "softmax", "normed", "convolved"])
def test_gradients_are_those_of_autograd_through_the_iteration(name: str) -> None:
    cell, state, u = made(name)
    module = sp.to_torch(model_of(name), trainable=name != "convolved")
    u.requires_grad_()
    direction = torch.randn(M, module.model.n_outputs, dtype=F64)
    (ours,) = torch.autograd.grad((module(u).flatten(1) * direction).sum(), u)
    (theirs,) = torch.autograd.grad((flat(rest(cell, state, u, 100)) * direction).sum(), u)
    assert float((ours - theirs).abs().max()) < 1e-8
    v = u[:2].detach().requires_grad_()
    assert torch.autograd.gradcheck(module, v, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_gradients_by_weights_are_those_of_autograd_through_the_iteration() -> None:
    cell, state, u = made("tanh")
    module = sp.to_torch(model_of("tanh"), trainable=True)
    (module(u) ** 2).sum().backward()
    (rest(cell, state, u) ** 2).sum().backward()
    values = dict(zip(module.keys, module.values, strict=True))
    assert torch.allclose(values["cell.tanh", "input"].grad, cell.outer.weight.grad.flatten(), atol=1e-8)
    assert torch.allclose(values["cell.tanh", "cell.tanh"].grad, cell.inner.weight.grad.flatten(), atol=1e-8)
    assert torch.allclose(module.state_bias.grad, cell.outer.bias.grad, atol=1e-8)


def test_states_have_no_group_of_their_own_unless_they_need_one() -> None:
    groups = {name: [group.name for group in model_of(name).groups] for name in CELLS}
    assert [one for one in groups if len(groups[one]) == 1] == [
        "tanh",
        "leaky_relu",
        "chain",
        "damped",
        "softmax",
        "convolved",
    ]
    assert groups["residual"][0] == "state"
    assert groups["two"][0] == "state_1"
    assert groups["wide"][0] == "state"
    damped, plain = (sp.perron_frobenius(model_of(name)) for name in ("damped", "tanh"))
    assert damped.value == pytest.approx(plain.value, rel=1e-12)


def test_what_only_a_product_proves_is_written_as_one() -> None:
    torch.manual_seed(0)
    cell = Wide().double().eval()
    with torch.no_grad():  # what one state adds the other takes away
        cell.up.weight[:] = torch.tensor([0.3, -0.3, 0.0])
        shrunk(cell.down, 5.0)
        cell.down.weight[1] = 0.98 * cell.down.weight[0]
    u = torch.randn(M, P, dtype=F64)
    model = sp.from_cell(cell, zeros(3), u)
    assert [group.name for group in model.groups] == ["cell.relu"]
    assert sp.perron_frobenius(model).upper < 0.1
    with torch.no_grad():
        assert float((model.predict(u) - rest(cell, zeros(3), u)).abs().max()) < 1e-9


def test_a_readout_is_part_of_the_model() -> None:
    cell, state, u = made("tanh")
    readout = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)).double().eval()
    model = sp.from_cell(cell, state, u, readout)
    with torch.no_grad():
        assert float((model.predict(u) - readout(rest(cell, state, u))).abs().max()) < 1e-9
    assert model.output_shape == (3,)
    assert [loop.names for loop in model.state_equation.plan.loops] == [("cell.tanh",)]


def test_a_readout_of_several_states() -> None:
    two, states, v = made("two")
    joined = sp.from_cell(two, states, v, Joined().double().eval())
    with torch.no_grad():
        assert float((joined.predict(v) - Joined()(*rest(two, states, v))).abs().max()) < 1e-9


class Joined(nn.Module):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sum(1), h.sum(1) - 1.0], dim=1)


def test_a_cell_of_torch_is_called_by_names() -> None:
    torch.manual_seed(0)
    cell = nn.RNNCell(P, 6).double().eval()
    with torch.no_grad():
        cell.weight_hh *= 0.4
    u = torch.randn(M, P, dtype=F64)
    with torch.no_grad():
        x = zeros(6)
        for _ in range(200):
            x = cell(u, x)
    model = sp.from_cell(cell, {"hx": zeros(6)}, u)
    assert float((model.predict(u) - x).abs().max()) < 1e-9
    with pytest.raises(InputError, match=r"order of arguments is \(input, hx\)"):
        sp.from_cell(cell, zeros(6), u)


def test_functions_and_several_inputs_go_in() -> None:
    cell, state, u = made("tanh")

    def function(x: torch.Tensor, u: torch.Tensor, v: torch.Tensor, flag: bool = False) -> torch.Tensor:
        return cell(x, u) * 0.5 + v if flag else x * 0.0

    v = torch.randn(M, 6, dtype=F64)
    model = sp.from_cell(function, state, {"u": u, "v": v, "flag": True})
    with torch.no_grad():
        x = state
        for _ in range(200):
            x = function(x, u, v, flag=True)
    assert float((model.predict({"u": u, "v": v}) - x).abs().max()) < 1e-9
    assert model.n_inputs == P + 6


def test_a_cell_that_ignores_its_input_is_fine() -> None:
    cell, state, u = made("tanh")
    model = sp.from_cell(lambda x, u: torch.tanh(cell.inner(x) + 0.5), state, u)
    y = model.predict(u)
    assert float((y - y[:1]).abs().max()) == 0.0
    with torch.no_grad():
        assert float((torch.tanh(cell.inner(y) + 0.5) - y).abs().max()) < 1e-9


def test_float32_and_the_mode_of_training() -> None:
    cell, state, u = made("tanh")
    cell.float().train()
    with pytest.warns(TrainingModeWarning):
        model = sp.from_cell(cell, state.float(), u.float())
    assert model.dtype == np.float32
    with torch.no_grad():
        assert float((model.predict(u.float()) - rest(cell, state.float(), u.float())).abs().max()) < 2e-6
    assert cell.training


class Bad(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, nn.Linear(6, 6).double()

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> object:
        if self.kind == "random":
            return torch.tanh(self.inner(x) + torch.rand_like(x))
        if self.kind == "product":
            return x * torch.exp(self.inner(x))
        normed = nn.functional.layer_norm(x, (6,)) * 0.1
        return {"shape": x[:, :5], "several": (x, x), "text": "x", "norm": normed}[self.kind]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("shape", InputError, r"was given \(5, 6\) and returns \(5, 5\)"),
        ("several", InputError, "and nothing else"),
        ("text", InputError, "returns nothing"),
        ("norm", NotWellPosedError, "'cell.layer_norm', a block"),
        ("product", NotWellPosedError, "a block .* without a Lipschitz constant"),
        ("random", sp.SimplicitError, "rand|another output"),
    ],
)
def test_bad_cells_are_refused(kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sp.from_cell(Bad(kind).eval(), zeros(6), zeros(P))


def test_bad_examples_are_refused() -> None:
    cell, state, u = made("tanh")
    for given, message in (
        ((state[:3], u), "as many samples"),
        ((state.long(), u), "floating-point"),
        ((zeros(5), u), r"cell fails as cell\(x, u\)"),
        ((state, ()), "inputs must be an array"),
        (("x", u), "state must be an array"),
        ((state, u, lambda x: x.sum()), "readout must return one tensor"),
    ):
        with pytest.raises(InputError, match=message):
            sp.from_cell(cell, *given)
    with pytest.raises(InputError, match="cell must be"):
        sp.from_cell(3, state, u)


def test_an_unproved_cell_gives_its_figure() -> None:
    cell = Elementwise(norm=3.0).double().eval()
    u = torch.randn(M, P, dtype=F64)
    expected = float(np.abs(np.linalg.eigvals(np.abs(cell.inner.weight.detach().numpy()))).max())
    with pytest.raises(NotWellPosedError, match=f"λ_pf = {expected:.5g}") as raised:
        sp.from_cell(cell, zeros(6), u)
    assert raised.value.lower == pytest.approx(expected)
    assert sp.perron_frobenius(sp.from_cell(cell, zeros(6), u, check=False)).value == pytest.approx(expected)


def test_files_and_onnx(tmp_path: Path) -> None:
    model = model_of("softmax")
    u = made("softmax")[2]
    sp.save(model, tmp_path / "model")
    assert torch.equal(sp.load(tmp_path / "model").predict(u), model.predict(u))
    if pytest.importorskip("onnx"):
        with pytest.raises(InputError, match="to_torch"):
            sp.export_onnx(model_of("tanh"), tmp_path / "model.onnx")


def test_the_residual_cell_keeps_the_state_and_is_still_exact_after_a_change_of_dtype() -> None:
    torch.manual_seed(1)
    cell = Residual().eval()
    u = torch.randn(M, P)
    model = sp.from_cell(cell, zeros(6).float(), u)
    with torch.no_grad():
        x = rest(cell.double(), zeros(6), u.double())
    assert float((model.predict(u).double() - x).abs().max()) < 2e-5
