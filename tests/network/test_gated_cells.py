"""Recurrent cells with gates at rest, against plain iteration of torch's own and of one written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from cells import F64, P
from simplicit.errors import InputError, NotWellPosedError
from simplicit.network import CellModel

N, M, RANGE = 5, 40, (-0.5, 0.5)


class Gated(nn.Module):
    """A gated recurrent unit by hand, which writes its convex combination in one of several ways."""

    def __init__(self, how: int = 0) -> None:
        super().__init__()
        self.z, self.r, self.n = (nn.Linear(P + N, N) for _ in range(3))
        self.how = how

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        x = torch.cat([u, h], 1)
        z, r = torch.sigmoid(self.z(x)), torch.sigmoid(self.r(x))
        n = torch.tanh(self.n(torch.cat([u, r * h], 1)))
        ways = ((1 - z) * n + z * h, n + z * (h - n), h + z * (n - h), h - (h - n) * z)
        return ways[self.how] if self.how < 4 else torch.lerp(h, n, z)


def cell_of(name: str, scale: float) -> tuple[nn.Module, Any]:
    """A cell, its weights on the state scaled, and an example of its state."""
    torch.manual_seed(0)
    cell = {"gru": lambda: nn.GRUCell(P, N), "lstm": lambda: nn.LSTMCell(P, N)}.get(name, Gated)().double().eval()
    h = torch.zeros(M, N, dtype=F64)
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.ndim == 2:
                parameter[:, 0 if parameter.shape[1] == N else P :] *= scale if parameter.shape[1] != P else 1.0
    return cell, {"gru": {"hx": h}, "lstm": {"hx": (h, h)}}.get(name, h)


def inputs(samples: int = M) -> Tensor:
    return torch.rand(samples, P, dtype=F64, generator=torch.Generator().manual_seed(1)) - 0.5


def iterated(cell: nn.Module, u: Tensor, steps: int = 400) -> Tensor:
    h = c = torch.zeros(len(u), N, dtype=u.dtype)
    for _ in range(steps):
        if isinstance(cell, nn.LSTMCell):
            h, c = cell(u, (h, c))
        else:
            h = cell(u, h) if isinstance(cell, nn.GRUCell) else cell(h, u)
    return torch.cat([h, c], 1) if isinstance(cell, nn.LSTMCell) else h


def model_of(name: str, scale: float = 0.3) -> tuple[CellModel, nn.Module, Tensor]:
    (cell, state), u = cell_of(name, scale), inputs()
    return sp.from_cell(cell, state, u, clip=RANGE if name == "lstm" else None), cell, u


@pytest.mark.parametrize("name", ["gru", "hand", "lstm"])
def test_the_model_is_the_cell_at_rest(name: str) -> None:
    model, cell, u = model_of(name)
    assert float(sp.perron_frobenius(model)) < 1
    with torch.no_grad():
        expected = iterated(cell, u)
        for samples in (1, 2, 7):
            assert float((model.predict(u[:samples]) - expected[:samples]).abs().max()) < 1e-9
    for typed in (model, model.astype("float32")):
        found = sp.equilibrium(typed, u.to(getattr(torch, str(typed.dtype))))
        outputs = typed.output_equation.outputs(found.states, u.to(found.states.dtype))
        error = (outputs.double() - expected).abs().amax(dim=1)
        assert bool((error <= 4 * found.error_bound + 1e-12).all())
        assert float(found.error_bound.max()) < (1e-8 if typed is model else 1e-2)


def test_every_way_to_write_a_gate_rests_where_its_candidate_does() -> None:
    cell, state = cell_of("hand", 0.3)
    u, models = inputs(), []
    for how in range(5):
        again = copy.deepcopy(cell)
        again.how = how
        models.append(sp.from_cell(again, state, u, check=False))
    assert [len(model.groups) for model in models[:4]] == [3] * 4  # r, the product and the tanh
    assert all(torch.allclose(models[0].predict(u), one.predict(u), atol=1e-9) for one in models[1:4])
    rest = sp.equilibrium(models[4], u, proved=False)
    outputs = models[4].output_equation.outputs(rest.states, u)
    with torch.no_grad():
        assert torch.allclose(outputs, iterated(again, u), atol=1e-8)


def test_gradients_files_and_certificates(tmp_path: Path) -> None:
    model, cell, u = model_of("lstm", 0.2)
    v = u[:6].clone().requires_grad_()
    (ours,) = torch.autograd.grad(sp.to_torch(model)(v).sum(), v)
    (theirs,) = torch.autograd.grad(iterated(cell, v, 200).sum(), v)
    assert torch.allclose(ours, theirs, atol=1e-8)
    sp.save(model, tmp_path / "model")
    again = sp.load(tmp_path / "model")
    assert torch.equal(again.predict(u), model.predict(u))
    for one in (model, again):
        with pytest.raises(InputError, match="must lie in clip"):
            one.predict(2 * u)
    labels = model.predict(u[:4]).argmax(dim=1).numpy()
    found = sp.certify(model, u[:4], labels, 1e-6, clip=RANGE)
    assert all(one.all() for one in found.certified.values())
    assert torch.equal(
        model.predict(sp.fgsm(model, u[:4], labels, 1e-6, clip=RANGE)).argmax(dim=1), torch.tensor(labels)
    )
    with pytest.raises(InputError, match=r"pass clip=\(-0.5, 0.5\)"):
        sp.certify(model, u[:4], labels, 1.0, clip=None)


def test_what_is_not_proved_has_its_figure_and_can_be_iterated() -> None:
    (cell, state), u = cell_of("gru", 1.0), inputs()
    with pytest.raises(NotWellPosedError, match=r"λ_pf = 1\.\d+ .*'cell_1' \(mul\) L = 2"):
        sp.from_cell(cell, state, u)
    model = sp.from_cell(cell, state, u, check=False)
    with pytest.raises(NotWellPosedError):
        sp.equilibrium(model, u)
    found = sp.equilibrium(model, u, proved=False)
    assert found.method == "not proved"
    assert bool(torch.isinf(found.error_bound).all())
    with torch.no_grad():
        expected = iterated(cell, u)
    assert torch.allclose(model.output_equation.outputs(found.states, u), expected, atol=1e-7)
    lstm, both = cell_of("lstm", 0.3)
    with pytest.raises(NotWellPosedError, match=r"\(mul\) without .* give clip=\(low, high\)"):
        sp.from_cell(lstm, both, u)


@pytest.mark.parametrize("name", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_what_is_fitted_is_proved_and_comes_back(name: str) -> None:
    (cell, state), u = cell_of(name, 1.0 if name == "gru" else 0.3), inputs()
    clip = RANGE if name == "lstm" else None
    model = sp.from_cell(cell, state, u, clip=clip, check=False)
    result = sp.fit(model, u, sp.Matching(sp.L1(1e-3)), executor="serial", throw=False)
    assert sp.perron_frobenius(result.model).upper < 1
    back = result.network()
    assert type(back) is type(cell)
    with torch.no_grad():
        assert float((result.model.predict(u) - iterated(back, u)).abs().max()) < 1e-8
    again = sp.from_cell(back, state, u, clip=clip)
    assert float((again.predict(u) - result.model.predict(u)).abs().max()) < 1e-8
