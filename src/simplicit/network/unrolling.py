r"""Recurrent layers and cells by substitution over their steps, in a graph.

With shared weights W, V and biases b, c, a gate's pre-activation at step t is affine in x_t and h_{t-1},

    s_t = W x_t + b + V h_{t-1} + c,

and what follows are elementwise gates and products. A recurrent network is h_t = tanh(s_t), or ReLU. An LSTM cuts s
into (i, f, g, o), and has

    c_t = σ(f) ∘ c_{t-1} + σ(i) ∘ tanh(g),   h_t = P (σ(o) ∘ tanh(c_t)),

P a projection where there is one. A GRU cuts them into (r, z, n), and its reset gate acts on the hidden part of n,

    n_t = tanh((W x_t + b)_n + σ(r) ∘ (V h_{t-1} + c)_n),   h_t = n_t + σ(z) ∘ (h_{t-1} - n_t).

The sum s is one operation, V h plus what the input gives, so that the rows of V see the whole pre-activation when they
are trained; for n the input's part is zero there. The first layer's W x is one linear map over the whole sequence. A
layer that reads another takes its results step by step, and whoever picks one step of a result gets that step alone, so
that steps which nobody reads are not there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from simplicit.network.recurrences import CELLS, LAYERS, OWN
from simplicit.network.trees import leaves

_aten = torch.ops.aten

#: Steps, of all layers and both directions together, up to which a recurrent layer is written out.
MOST_STEPS = 2_000

_TO_THE_END = 2**63 - 1
_ZEROS = {_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default}
_COPIES = {_aten.alias.default, _aten.clone.default, _aten._to_copy.default, _aten.detach.default}
#: h, and c of an LSTM.
States = tuple[Node, ...]


def unroll(module: GraphModule) -> None:
    """Write out the recurrent layers and cells of a graph, in place.

    One of more than :data:`MOST_STEPS` steps, or of as many as the input has samples, or with dropout, stays torch's
    own operation.
    """
    values = _Values()
    for node in list(module.graph.nodes):
        own = OWN.get(node.target)
        if own is None:
            continue
        writer = _Writer(module.graph, node, values)
        if own in CELLS.values():
            name, x, states, weights = _cell_call(node, own)
            after = _CELLS[name](writer, writer.linear(x, *weights[::2]), states, _Hidden(*weights[1::2]))
            _give(writer, [(part, None) for part in after])
        elif (layer := _Layer.of(node, own)) is not None:
            _give(writer, layer.results(writer))
        else:
            node.target = own
    for node in reversed(module.graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            module.graph.erase_node(node)
    module.recompile()


def _cell_call(node: Node, own: Any) -> tuple[str, Node, States, list[Any]]:
    """The name of a cell, its input, its states, and weights and biases in torch's order."""
    x, states, *weights = node.args
    name = next(name for name, operation in CELLS.items() if operation is own)
    named = [node.kwargs.get(key) for key in ("w_ih", "w_hh", "b_ih", "b_hh")]
    weights = [*weights, *named[len(weights) :]]
    return name.removesuffix("_cell"), x, tuple(states) if isinstance(states, Sequence) else (states,), weights  # type: ignore[return-value, arg-type]


class _Values:
    """What torch would compute, without its numbers: shapes and dtypes, found once, since steps are alike."""

    def __init__(self) -> None:
        self._found: dict[Any, Any] = {}
        # By the identities of tensors, which live on in it.
        self._looks: dict[int, tuple[Tensor, Any]] = {}

    def of(self, target: Any, args: tuple[Any, ...]) -> Any:
        """The value of an operation on nodes and settings."""
        given = map_arg(args, lambda one: one.meta["val"])
        key = target, self._look(given[:1] if target is operator.getitem else given)  # all parts are alike
        if key not in self._found:
            with _mode(given), torch.no_grad():
                self._found[key] = target(*given)
        return self._found[key]

    def _look(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._look(one) for one in value)
        if not isinstance(value, Tensor):
            return str(value)
        if id(value) not in self._looks:
            self._looks[id(value)] = value, (value.dtype, str(value.shape))
        return self._looks[id(value)][1]


def _mode(given: Any) -> Any:
    """torch's way to compute without numbers, in which a value was found."""
    return next(leaf.fake_mode for leaf in leaves(given) if isinstance(leaf, FakeTensor))


class _Writer:
    """Writes operations into a graph before a node, as if they stood in its place."""

    def __init__(self, graph: Graph, place: Node, values: _Values) -> None:
        self._graph, self.place, self._values = graph, place, values

    def __call__(self, target: Any, *args: Any) -> Node:
        with self._graph.inserting_before(self.place):
            node = self._graph.call_function(target, args)
        node.meta = {**self.place.meta, "val": self._values.of(target, args)}
        return node

    def linear(self, x: Node, weight: Node, bias: Node | None = None) -> Node:
        """W x + b along the last axis."""
        return self(_aten.linear.default, x, weight, *(() if bias is None else (bias,)))

    def add(self, one: Node, other: Node) -> Node:
        return self(_aten.add.Tensor, one, other)

    def mul(self, one: Node, other: Node) -> Node:
        return self(_aten.mul.Tensor, one, other)

    def cut(self, x: Node, width: int, first: int, last: int) -> Node:
        """The numbers from ``first · width`` to ``last · width`` of the last axis."""
        return self(_aten.slice.Tensor, x, x.meta["val"].ndim - 1, first * width, last * width)

    def sigmoid(self, x: Node) -> Node:
        return self(_aten.sigmoid.default, x)

    def tanh(self, x: Node) -> Node:
        return self(_aten.tanh.default, x)


@dataclass(frozen=True)
class _Hidden:
    """What multiplies h_{t-1}, its bias, and the projection that makes h of an LSTM's result."""

    weight: Node
    bias: Node | None = None
    projection: Node | None = None

    def of(self, write: _Writer, h: Node) -> Node:
        """V h + c."""
        return write.linear(h, self.weight, self.bias)


#: One step: what the input gives (W x + b), the states before it, and the weights of h, to the states after it.
Step = Callable[[_Writer, Node, States, _Hidden], States]


def _lstm(write: _Writer, given: Node, states: States, hidden: _Hidden) -> States:
    h, c = states
    s, H = write.add(hidden.of(write, h), given), c.meta["val"].shape[-1]
    in_and_forget, out = write.sigmoid(write.cut(s, H, 0, 2)), write.sigmoid(write.cut(s, H, 3, 4))
    new = write.tanh(write.cut(s, H, 2, 3))
    kept = write.mul(write.cut(in_and_forget, H, 1, 2), c)
    c = write.add(kept, write.mul(write.cut(in_and_forget, H, 0, 1), new))
    h = write.mul(out, write.tanh(c))
    return h if hidden.projection is None else write.linear(h, hidden.projection), c


def _gru(write: _Writer, given: Node, states: States, hidden: _Hidden) -> States:
    (h,) = states
    H = h.meta["val"].shape[-1]
    gates = write(_aten.pad.default, write.cut(given, H, 0, 2), [0, H])
    s = write.add(hidden.of(write, h), gates)
    reset_and_update = write.sigmoid(write.cut(s, H, 0, 2))
    reset = write.mul(write.cut(reset_and_update, H, 0, 1), write.cut(s, H, 2, 3))
    new = write.tanh(write.add(write.cut(given, H, 2, 3), reset))
    moved = write.mul(write.cut(reset_and_update, H, 1, 2), write(_aten.sub.Tensor, h, new))
    return (write.add(new, moved),)


def _simple(activation: Any) -> Step:
    def step(write: _Writer, given: Node, states: States, hidden: _Hidden) -> States:
        return (write(activation, write.add(hidden.of(write, states[0]), given)),)

    return step


_CELLS: dict[str, Step] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _simple(_aten.tanh.default),
    "rnn_relu": _simple(_aten.relu.default),
}


@dataclass(frozen=True)
class _Layer:
    """A recurrent layer, of several layers and directions."""

    step: Step
    input: Node
    states: States
    params: list[Node]
    biases: bool
    count: int
    directions: int
    axis: int
    steps: int

    @classmethod
    def of(cls, node: Node, own: Any) -> _Layer | None:
        """From a call; None where it cannot be written out."""
        x, states, params, biases, count, dropout, train, both, batch_first = node.args
        axis = 1 if batch_first else 0
        steps = x.meta["val"].shape[axis]  # type: ignore[union-attr]
        directions = 2 if both else 1
        random = train and dropout and count > 1  # type: ignore[operator]
        if random or not isinstance(steps, int) or not 0 < steps * directions * count <= MOST_STEPS:  # type: ignore[operator]
            return None
        name = next(name for name, operation in LAYERS.items() if operation is own)
        given = tuple(states) if isinstance(states, Sequence) else (states,)
        return cls(_CELLS[name], x, given, list(params), bool(biases), count, directions, axis, steps)  # type: ignore[arg-type]

    def results(self, write: _Writer) -> list[tuple[Any, int | None]]:
        """The sequence of results and the last states, each with the axis along which its parts stand."""
        sequence: Node | list[Node] = self.input
        last: list[States] = []
        for layer in range(self.count):
            both = []
            for direction in range(self.directions):
                steps, after = self._run(write, sequence, layer * self.directions + direction, direction == 1)
                both.append(steps)
                last.append(after)
            sequence = both[0] if len(both) == 1 else self._side_by_side(write, both)
        return [(sequence, self.axis), *((list(parts), 0) for parts in zip(*last, strict=True))]

    @staticmethod
    def _side_by_side(write: _Writer, both: list[list[Node]]) -> list[Node]:
        return [write(_aten.cat.default, list(pair), 1) for pair in zip(*both, strict=True)]

    def _run(
        self, write: _Writer, sequence: Node | list[Node], number: int, backwards: bool
    ) -> tuple[list[Node], States]:
        """The results of one layer in one direction, in the order of time, and its last states."""
        size = len(self.params) // (self.count * self.directions)
        own = self.params[number * size : (number + 1) * size]
        biases: list[Node | None] = [*own[2:4]] if self.biases else [None, None]
        hidden = _Hidden(own[1], biases[1], own[-1] if size % 2 else None)
        if isinstance(sequence, Node):
            whole = write(_aten.unbind.int, write.linear(sequence, own[0], biases[0]), self.axis)
            given = [write(operator.getitem, whole, t) for t in range(self.steps)]
        else:
            given = [write.linear(one, own[0], biases[0]) for one in sequence]
        states = tuple(self._first(write, state, number, given[0]) for state in self.states)
        found: dict[int, Node] = {}
        for t in reversed(range(self.steps)) if backwards else range(self.steps):
            states = self.step(write, given[t], states, hidden)
            found[t] = states[0]
        return [found[t] for t in range(self.steps)], states

    def _first(self, write: _Writer, state: Node, number: int, given: Node) -> Node:
        """The state before the first step, of as many samples as what the input gives."""
        before = state
        while before.target in _COPIES:
            before = before.args[0]  # type: ignore[assignment]
        if before.target not in _ZEROS:
            return write(_aten.select.int, state, 0, number)
        samples, width = self.input.meta["val"].shape[1 - self.axis], state.meta["val"].shape[-1]
        if not isinstance(samples, int) and not samples.node.expr.is_Symbol:
            # Other dimensions are folded into the samples, and zeros of their own would not say how.
            return write(_aten.mul.Tensor, write.cut(given, width, 0, 1), 0.0)
        if not isinstance(samples, int):
            samples = write(_aten.sym_size.int, self.input, 1 - self.axis)
        return write(_aten.new_zeros.default, self.input, [samples, width])


def _give(write: _Writer, results: list[tuple[Any, int | None]]) -> None:
    """Let those that read the results of a node read these: a value, or parts that stand along an axis."""
    node = write.place
    if len(results) == 1 and results[0][1] is None:
        node.replace_all_uses_with(results[0][0])
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            parts, axis = results[user.args[1]]  # type: ignore[index]
            if axis is None:
                user.replace_all_uses_with(parts)
            else:
                _give_parts(write, user, parts, axis)


def _give_parts(write: _Writer, node: Node, parts: list[Node], axis: int) -> None:
    """Let those that pick a part of a node read that part, and others all parts, stacked."""
    for user in list(node.users):
        if user.target is _aten.slice.Tensor and tuple(user.args[2:]) == (0, _TO_THE_END) and not user.kwargs:
            _give_parts(write, user, parts, axis)
        elif user.target is _aten.select.int and user.args[1] % node.meta["val"].ndim == axis:
            user.replace_all_uses_with(parts[user.args[2]])  # type: ignore[index]
    if any(user.users or user.op == "output" for user in node.users):
        node.replace_all_uses_with(write(_aten.stack.default, parts, axis))
