"""Recurrent layers and cells, written step by step.

ONNX has operators for whole layers, but runtimes have them in float32 only, so that each step is written by its
formula. What the input contributes is one product for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.products import transposed
from simplicit.runtime.onnx.operations.registry import Entry

#: The states of a cell: h, and c of an LSTM.
States = list[str]
#: Writes a step, from what the input and h contribute to all gates, and the states before it, to those after it.
Cell = Callable[[Call, str, str, States], States]


def _gates(call: Call, x: str, count: int) -> list[str]:
    return call.graph().nodes_of("Split", x, outputs=count, axis=-1)


def _lstm(call: Call, from_input: str, from_state: str, states: States) -> States:
    i, f, g, o = _gates(call, call.node("Add", from_input, from_state), 4)
    kept = call.node("Mul", call.node("Sigmoid", f), states[1])
    c = call.node("Add", kept, call.node("Mul", call.node("Sigmoid", i), call.node("Tanh", g)))
    return [call.node("Mul", call.node("Sigmoid", o), call.node("Tanh", c)), c]


def _gru(call: Call, from_input: str, from_state: str, states: States) -> States:
    pairs = zip(_gates(call, from_input, 3), _gates(call, from_state, 3), strict=True)
    (r_x, r_h), (z_x, z_h), (n_x, n_h) = pairs
    reset, update = (call.node("Sigmoid", call.node("Add", *pair)) for pair in ((r_x, r_h), (z_x, z_h)))
    new = call.node("Tanh", call.node("Add", n_x, call.node("Mul", reset, n_h)))
    return [call.node("Add", new, call.node("Mul", update, call.node("Sub", states[0], new)))]


def _simple(operator: str) -> Cell:
    return lambda call, from_input, from_state, states: [call.node(operator, call.node("Add", from_input, from_state))]


@dataclass(frozen=True)
class _Weights:
    """Of one layer in one direction: what multiplies the input, what multiplies h, and biases if there are any."""

    to_input: Held
    to_state: Held
    input_bias: Held | None = None
    state_bias: Held | None = None

    def input_part(self, call: Call, x: str) -> str:
        return _affine(call, x, self.to_input, self.input_bias)

    def state_part(self, call: Call, h: str) -> str:
        return _affine(call, h, self.to_state, self.state_bias)


def _affine(call: Call, x: str, weight: Held, bias: Held | None) -> str:
    y = call.node("MatMul", x, transposed(call, weight))
    return y if bias is None else call.node("Add", y, call.tensor(bias, call.result.dtype))


def _cell(cell: Cell) -> Entry:
    def written(call: Call) -> str | list[str]:
        hx, dtype = call["hx"], call.result.dtype
        states = [call.tensor(held, dtype) for held in (hx if isinstance(hx, tuple) else (hx,))]
        weights = _Weights(*(call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")))
        found = cell(call, weights.input_part(call, call.x()), weights.state_part(call, states[0]), states)
        return found if len(call.results) > 1 else found[0]

    return written


def _layers(cell: Cell) -> Entry:
    """Layers over a sequence, one or two directions each."""

    def written(call: Call) -> str | list[str]:
        call.refuse(call["input"] is None or call.first.rank != 3, "is of packed sequences, or of a single sample")
        directions = 2 if call["bidirectional"] else 1
        hx = call["hx"] if isinstance(call["hx"], tuple) else (call["hx"],)
        given = [call.tensor(held, call.result.dtype) for held in hx]
        each = 4 if call["has_biases"] else 2
        params, count = call["params"], call["num_layers"] * directions
        call.refuse(len(params) != each * count, "projects its states")
        x, ends = call.x(), list[States]()
        for layer in range(call["num_layers"]):
            parts = []
            for direction in range(directions):
                number = layer * directions + direction
                weights = _Weights(*params[number * each : (number + 1) * each])
                start = [call.node("Gather", one, call.numbers(number), axis=0) for one in given]
                part, end = _over_time(call, cell, x, weights, start, backwards=direction == 1)
                parts.append(part)
                ends.append(end)
            x = parts[0] if directions == 1 else call.node("Concat", *parts, axis=2)
        return [x, *(_together(call, list(kind), 0) for kind in zip(*ends, strict=True))]

    return written


def _over_time(
    call: Call, cell: Cell, x: str, weights: _Weights, states: States, backwards: bool
) -> tuple[str, States]:
    """One layer in one direction: its outputs at all steps, and its states at the end."""
    time = 1 if call["batch_first"] else 0
    whole, outputs = weights.input_part(call, x), list[str]()
    steps = range(call.first.length(time))
    for step in reversed(steps) if backwards else steps:
        from_input = call.node("Gather", whole, call.numbers(step), axis=time)
        states = cell(call, from_input, weights.state_part(call, states[0]), states)
        outputs.append(states[0])
    return _together(call, outputs[::-1] if backwards else outputs, time), states


def _together(call: Call, parts: list[str], axis: int) -> str:
    lifted = [call.node("Unsqueeze", part, call.numbers([axis])) for part in parts]
    return call.node("Concat", *lifted, axis=axis)


RECURRENCES: dict[str, Entry] = {
    "lstm": _layers(_lstm),
    "gru": _layers(_gru),
    "rnn_tanh": _layers(_simple("Tanh")),
    "rnn_relu": _layers(_simple("Relu")),
    "lstm_cell": _cell(_lstm),
    "gru_cell": _cell(_gru),
    "rnn_tanh_cell": _cell(_simple("Tanh")),
    "rnn_relu_cell": _cell(_simple("Relu")),
}
