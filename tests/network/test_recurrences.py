"""Recurrent layers and cells: written out over their steps, exactly, with their weights in A and B."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import UnsupportedOperationError
from simplicit.implicit import Block
from simplicit.network import unrolling

KINDS: dict[str, Callable[..., nn.RNNBase]] = {
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "LSTM": nn.LSTM,
    "projected": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
    "GRU": nn.GRU,
}
CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
    "LSTM": nn.LSTMCell,
    "GRU": nn.GRUCell,
}
STEPS, HIDDEN = 2, 4


class Whole(nn.Module):
    """All that a recurrent layer returns, side by side, from states that are zero or made of the input."""

    def __init__(self, kind: str, *, first: bool, given: bool, **options: Any) -> None:
        super().__init__()
        self.layer = KINDS[kind](3, HIDDEN, batch_first=first, **options)
        directions = 2 if self.layer.bidirectional else 1
        widths = [self.layer.proj_size or HIDDEN] + [HIDDEN] * (self.layer.mode == "LSTM")
        self.shapes = [(self.layer.num_layers * directions, width) for width in widths]
        self.start = nn.Linear(3, sum(count * width for count, width in self.shapes)) if given else None

    def states(self, x: Tensor) -> Any:
        if self.start is None:
            return None
        parts = self.start(x[:, 0]).split([count * width for count, width in self.shapes], 1)
        states = [
            part.view(-1, *shape).transpose(0, 1).contiguous() for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return tuple(states) if self.layer.mode == "LSTM" else states[0]

    def forward(self, x: Tensor) -> Tensor:
        first = self.layer.batch_first
        y, last = self.layer(x if first else x.transpose(0, 1), self.states(x))
        states = last if isinstance(last, tuple) else (last,)
        y = y if first else y.transpose(0, 1)
        return torch.cat([y.flatten(1), *(state.transpose(0, 1).flatten(1) for state in states)], 1)


class Looped(nn.Module):
    """A cell, from step to step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, found = None, []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


class Classifier(nn.Module):
    """A head on the last step of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase, width: int, classes: int = 3) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(x)[0][:, -1])
        return result


def check_exact(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> sp.ImplicitModel:
    """The model gives what the network gives, and no block of it has weights."""
    net = net.to(dtype).eval()
    x = torch.randn(7, *shape, dtype=dtype)
    model = sp.from_torch(net, x)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    for m in (1, 2, 7):
        np.testing.assert_allclose(model.predict(x[:m]), net(x[:m]).detach().flatten(1), rtol=tolerance, atol=tolerance)
    blocks = {group.activation.name for group in model.groups if isinstance(group.activation, Block)}
    assert blocks <= {"mul"}
    return model


@pytest.mark.parametrize(
    ("kind", "layers", "both", "bias", "first", "given"),
    [
        ("tanh", 1, True, True, False, True),
        ("relu", 2, False, False, True, False),
        ("LSTM", 2, True, True, True, True),
        ("projected", 2, False, False, False, False),
        ("GRU", 1, True, False, True, False),
        ("GRU", 2, False, True, False, True),
    ],
)
def test_a_recurrent_layer_is_exact(kind: str, layers: int, both: bool, bias: bool, first: bool, given: bool) -> None:
    torch.manual_seed(0)
    net = Whole(kind, first=first, given=given, num_layers=layers, bidirectional=both, bias=bias)
    check_exact(net, (STEPS, 3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_a_recurrent_layer_is_exact(kind: str) -> None:
    torch.manual_seed(0)
    for layers, both, bias, first in itertools.product((1, 2), *[(False, True)] * 3):
        given = (layers == 1) ^ both ^ bias ^ first  # with which any four of the five take all values together
        options: dict[str, Any] = {"num_layers": layers, "bidirectional": both, "bias": bias, "dropout": 0.3}
        options["dropout"] *= layers - 1
        check_exact(Whole(kind, first=first, given=given, **options), (STEPS, 3))
        if bias and first:  # what the precision changes, these do not
            check_exact(Whole(kind, first=first, given=given, **options), (STEPS, 3), torch.float32)


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_in_a_loop_is_exact(kind: str) -> None:
    torch.manual_seed(0)
    check_exact(Looped(CELLS[kind](3, HIDDEN, bias=kind != "LSTM")), (STEPS, 3))


def test_a_loop_by_hand_is_exact() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given, self.hidden = nn.Linear(3, 16), nn.Linear(4, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = c = x.new_zeros(x.shape[0], 4)
            for step in range(x.shape[1]):
                i, f, g, o = (self.given(x[:, step]) + self.hidden(h)).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            return h

    torch.manual_seed(0)
    check_exact(ByHand(), (STEPS, 3))


def test_samples_folded_into_sequences_and_states_from_another_layer() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            words, _ = self.inner(x.reshape(-1, 3, 3))
            sentence, states = self.outer(words[:, -1].reshape(x.shape[0], -1, 4))
            result: Tensor = self.outer(sentence, states)[0]
            return result

    torch.manual_seed(0)
    check_exact(Folded(), (2, 3, 3))


def test_only_the_steps_that_are_read_are_there() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    model = check_exact(Classifier(layer, 8), (5, 3))
    # Seven groups at each of five steps forwards and one backwards, but for what multiplies a c that is zero.
    assert len(model.groups) == 7 * 6 - 2


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gradients_files_onnx_attacks_and_certificates(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Classifier(KINDS[kind](3, 4, batch_first=True), 4).double().eval()
    x = torch.randn(4, STEPS, 3, dtype=torch.float64, requires_grad=True)
    model = sp.from_torch(net, x)
    (theirs,), (ours,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (net, sp.to_torch(model)))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    sp.save(model, tmp_path / "model")
    u = x.detach().numpy()
    np.testing.assert_array_equal(sp.load(tmp_path / "model").predict(u), model.predict(u))
    single = model.astype(np.float32)
    sp.export_onnx(single, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: u.astype(np.float32)})
    np.testing.assert_allclose(found.reshape(4, -1), net(x).detach(), atol=2e-5)
    labels = net(x).argmax(1).numpy()
    attacked = sp.attack(single, u.astype(np.float32), labels, 0.05, attacks="fgsm", clip=(-4, 4))
    assert attacked is not None
    margins = sp.certify(single, u.astype(np.float32), labels, 1e-4, clip=(-4, 4), method="interval").margins
    assert np.isfinite(margins["interval"]).all()


def test_a_map_stands_for_all_steps() -> None:
    torch.manual_seed(0)
    model = sp.from_torch(Looped(nn.RNNCell(3, 4)).eval(), torch.randn(2, 6, 3))
    among_states = [
        block for (row, column), block in model.blocks.items() if {row, column}.isdisjoint({"output", "input"})
    ]
    assert len(among_states) == 5
    assert len({id(block) for block in among_states}) == 1


def test_a_layer_of_very_many_steps_stays_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolling, "MOST_STEPS", 4)
    torch.manual_seed(0)
    net = Classifier(nn.GRU(3, 4, batch_first=True), 4).eval()
    x = torch.randn(40, 5, 3)
    model = sp.from_torch(net, x)
    assert [group.activation.name for group in model.groups] == ["gru"]
    np.testing.assert_allclose(model.predict(x), net(x).detach(), atol=2e-6)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    assert result.weight_count == 12
    said = " ".join(result.summary().split())
    assert "layer.weight_ih_l0, layer.weight_hh_l0 (of a recurrent layer of too many steps to be written out)" in said


def test_packed_sequences_are_refused() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, _ = self.layer(packed)
            result: Tensor = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0]
            return result

    with pytest.raises(UnsupportedOperationError, match=r"pack_padded_sequence.*give the recurrent layer padded ones"):
        sp.from_torch(Packed().eval(), (torch.randn(3, 5, 3), torch.tensor([5, 3, 2])))


def test_samples_as_steps_are_refused() -> None:
    net = Looped(nn.Identity())
    net.forward = lambda x: layer(x)[0]  # type: ignore[method-assign]
    layer = net.layer = nn.LSTM(3, 4)
    with pytest.raises(UnsupportedOperationError, match=r"'lstm'.*it mixes the samples of a batch"):
        sp.from_torch(net.eval(), torch.randn(4, 5, 3))
