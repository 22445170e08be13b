r"""How a cell is called: its states and inputs by the names of its arguments, and what of it is not as it should be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simplicit.errors import InputError, first_line
from simplicit.implicit.inputs import is_array
from simplicit.network.affine import Shape
from simplicit.network.outputs import tensors_of


@dataclass(frozen=True)
class CellCall:
    """How a cell is called: the names of states and inputs, and whether each kind is given by name.

    ``tuples`` are arguments that are tuples of states, each with the names of its parts.
    """

    states: tuple[str, ...]
    inputs: tuple[str, ...]
    states_by_name: bool
    inputs_by_name: bool
    tuples: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def said(self) -> str:
        """The call, in words."""
        parts = [*(name for name in self.states if not self.states_by_name)]
        parts += [*(name for name in self.inputs if not self.inputs_by_name)]
        named = [*(self.states if self.states_by_name else ()), *(self.inputs if self.inputs_by_name else ())]
        named = [*dict.fromkeys(self._holder.get(name, name) for name in named)]
        return f"cell({', '.join([*parts, *(f'{name}={name}' for name in named)])})"

    def arguments(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """What the cell is called with: arguments in order, and by name."""
        in_order, by_name = list[Any](), dict[str, Any]()
        for names, named in ((self.states, self.states_by_name), (self.inputs, self.inputs_by_name)):
            if named:
                by_name |= {name: given[name] for name in names if name not in self._holder}
            else:
                in_order += [given[name] for name in names]
        by_name |= {name: tuple(given[part] for part in parts) for name, parts in self.tuples}
        return in_order, by_name

    @property
    def _holder(self) -> dict[str, str]:
        """The tuple that a state is a part of, by the state's name."""
        return {part: name for name, parts in self.tuples for part in parts}

    def following(self, returned: Any) -> list[Any]:
        """The next states among what a cell returned."""
        if self.states_by_name and isinstance(returned, Mapping) and {*self.states} <= {*returned}:
            return [returned[name] for name in self.states]
        return [*tensors_of(returned).values()]


class Step(nn.Module):
    """One step of a cell, and the readout of the state before it, as a network of arguments by name."""

    def __init__(self, cell: Any, readout: Any, call: CellCall) -> None:
        super().__init__()
        self.cell, self.readout, self._call = cell, readout, call
        self.training = False  # it is the modules inside that are asked

    def forward(self, **given: Any) -> tuple[Any, ...]:
        in_order, by_name = self._call.arguments(given)
        following = self._call.following(self.cell(*in_order, **by_name))
        states = [given[name] for name in self._call.states]
        if self.readout is None:
            return tuple(following)
        named = self._call.states_by_name and len(states) > 1 and not self._call.tuples
        y = self.readout(**dict(zip(self._call.states, states, strict=True))) if named else self.readout(*states)
        return (*following, y)


def called(cell: Any, state: Any, inputs: Any) -> tuple[CellCall, dict[str, Any]]:
    """How a cell is called by examples, and all of them by name."""
    if isinstance(cell, nn.RNNCellBase) and not isinstance(state, Mapping):
        raise InputError(
            f"cell is a {type(cell).__name__}, whose order of arguments is (input, hx), and cell(state, inputs) was to "
            "be called: give state={'hx': h}, of an LSTMCell {'hx': (h, c)}, or a module of your own around it",
            argument="cell",
        )
    state, tuples = _spread(state)
    given = {"state": _examples(state, "state"), "inputs": _examples(inputs, "inputs")}
    by_name = {kind: [*one] if isinstance(one, dict) else [] for kind, one in given.items()}
    named = {*by_name["state"], *by_name["inputs"], *dict(tuples)}
    free = [name for name in _parameters(cell) if name not in named]
    taken, arrays = [*by_name["state"], *by_name["inputs"]], dict[str, dict[str, Any]]()
    for kind, one in given.items():
        if isinstance(one, dict):
            arrays[kind] = one
            continue
        names = []
        for place in range(len(one)):
            name = free.pop(0) if free else (f"{kind}_{place}" if len(one) > 1 else kind)
            while name in taken:
                name += "_"
            taken.append(name)
            names.append(name)
        arrays[kind] = dict(zip(names, one, strict=True))
    named_kinds = bool(by_name["state"]), bool(by_name["inputs"])
    call = CellCall(tuple(arrays["state"]), tuple(arrays["inputs"]), *named_kinds, tuples)
    _check_examples(arrays)
    return call, arrays["state"] | arrays["inputs"]


def _spread(state: Any) -> tuple[Any, tuple[tuple[str, tuple[str, ...]], ...]]:
    """States by name with a name for each part of those that are tuples, and these tuples."""
    if not isinstance(state, Mapping):
        return state, ()
    found, tuples = dict[Any, Any](), list[tuple[str, tuple[str, ...]]]()
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, tuple | list) and value and all(map(is_array, value)):
            parts = tuple(f"{name}_{place}" for place in range(len(value)))
            tuples.append((name, parts))
            found |= dict(zip(parts, value, strict=True))
        else:
            found[name] = value
    return found, tuple(tuples)


def _parameters(cell: Any) -> list[str]:
    """The names of a cell's positional arguments, as far as they are known."""
    try:
        parameters = inspect.signature(cell.forward if isinstance(cell, nn.Module) else cell).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]


def _examples(value: Any, argument: str) -> list[Any] | dict[str, Any]:
    if isinstance(value, Mapping):
        if not value or not all(isinstance(name, str) and name for name in value):
            raise InputError(f"{argument} must have names of the cell's arguments as its keys", argument=argument)
        return dict(value)
    found = [*value] if isinstance(value, tuple | list) else [value]
    arrays = [one for one in found if is_array(one)]
    if not arrays or (argument == "state" and len(arrays) < len(found)):
        raise InputError(
            f"{argument} must be an array (m, ...), or a tuple or mapping of arrays, got {type(value).__name__}",
            argument=argument,
        )
    return found


def _check_examples(arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse states that are no floating-point numbers, and examples of different numbers of samples."""
    counts: dict[str, int] = {}
    for kind, examples in arrays.items():
        for name, value in examples.items():
            if not is_array(value):
                if kind == "state":
                    raise InputError(f"state: {name!r} must be an array, got {type(value).__name__}", argument="state")
                continue
            floating = value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"
            if kind == "state" and not floating:
                raise InputError(
                    f"state: {name!r} must hold floating-point numbers, got {value.dtype}", argument="state"
                )
            if not len(value.shape):
                raise InputError(f"{kind}: {name!r} must have shape (m, ...), got ()", argument=kind)
            counts[name] = len(value)
    if len({*counts.values()}) > 1:
        found = " and ".join(f"{count} in {name!r}" for name, count in counts.items())
        raise InputError(f"state and inputs must hold as many samples, samples first, got {found}", argument="state")


def checked_step(step: Step, call: CellCall, given: Mapping[str, Any]) -> Shape:
    """The shape of one sample of y, after a step that has to return states of the shapes that it was given."""
    in_order, by_name = call.arguments({name: _example(value, step) for name, value in given.items()})
    try:
        with torch.no_grad():
            returned = step.cell(*in_order, **by_name)
    except Exception as error:  # the user's own forward may raise anything
        raise InputError(
            f"cell fails as {call.said} ({first_line(error)}); give state and inputs in the order of its arguments, or "
            "as mappings by their names, or wrap it in a module that takes (state, inputs)",
            argument="cell",
        ) from error
    following, states = call.following(returned), [given[name] for name in call.states]
    found = [tuple(one.shape) for one in following]
    wanted = [tuple(one.shape) for one in states]
    if found != wanted or not all(one.is_floating_point() for one in following):
        raise InputError(
            f"cell must return the next state, of the shape of the state, and nothing else: {call.said} was given "
            f"{_shapes(wanted)} and returns {_shapes(found)}; wrap it in a module that does, or correct the example",
            argument="state",
        )
    if step.readout is None:
        return wanted[0][1:] if len(wanted) == 1 else (sum(_size(one[1:]) for one in wanted),)
    with torch.no_grad():
        y = step(**{name: _example(value, step) for name, value in given.items()})[-1]
    if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != wanted[0][0] or not y.is_floating_point():
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InputError(f"readout must return one tensor (m, ...), got {got}", argument="readout")
    return tuple(y.shape[1:])


def _example(value: Any, step: nn.Module) -> Any:
    """An example as the cell takes it: a tensor, floating-point numbers in the dtype of its weights."""
    if not is_array(value):
        return value
    tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
    weight = next(step.parameters(), None)
    return tensor.to(weight.dtype) if tensor.is_floating_point() and weight is not None else tensor


def _shapes(shapes: list[Shape]) -> str:
    return " and ".join(map(str, shapes)) or "nothing"


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
