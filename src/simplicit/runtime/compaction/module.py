"""The module that a compacted network is: its program as code, with smaller parameters under their old names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from simplicit.checks import refused
from simplicit.network.calls import Call
from simplicit.runtime.compaction.layers import take_layers
from simplicit.runtime.compaction.program import Program

#: Names that the code of a graph may use beside its own.
_NAMES = {"torch": torch, "inf": float("inf"), "nan": float("nan"), "device": torch.device}
#: Removed rows that an error names.
_NAMED = 8

#: For each tensor of a state_dict that became smaller its old shape, and by axis the places that are gone.
Removed = Mapping[str, tuple[tuple[int, ...], Mapping[int, tuple[int, ...]]]]


@dataclass(frozen=True)
class Compaction:
    """What a compacted network computes, and what is gone.

    Attributes
    ----------
    code : str
        What it computes, as Python.
    removed : mapping of str to (tuple of int, mapping of int to tuple of int)
        For each tensor that became smaller the shape that it had, and by axis the places that are gone.
    dropped : tuple of str
        Names of tensors that nothing depends on any more. A tied tensor that is left has one of its names.
    """

    code: str
    removed: Removed
    dropped: tuple[str, ...]


class CompactNetwork(nn.Module):
    """A network without what its outputs do not depend on, made by :func:`~simplicit.compact`.

    It is called as the network was in the example, for any number of samples, and returns what the network returns, in
    the same structure. Its linear layers and two-dimensional convolutions are modules of torch. Parameters and buffers
    have the names that they have in the network, and are as trainable; it always computes as the network does in
    evaluation mode.

    Attributes
    ----------
    compaction : Compaction
        What it computes, and what is gone.

    Raises
    ------
    InputError
        On the way: arguments that the example did not have, or constants among them that it had with another value;
        ``load_state_dict`` is given tensors of the network as it was, and the message names the places that are gone.
    """

    def __init__(self, program: Program, call: Call, removed: Removed, dropped: tuple[str, ...]) -> None:
        super().__init__()
        layers = take_layers(program)
        # One name beside those of the network's own parts, of which any may be called "code".
        code = str(program.graph.python_code("self").src).lstrip("\n")
        self.compaction = Compaction(code, removed, dropped)
        self._names = call.names
        self._constants = dict(call.layout.constants)
        self._arrays = program.inputs
        self._alone = len(call.names) == 1
        self._structure = None if program.structure.is_leaf() else program.structure
        for name, value in program.constants.items():
            if (place := name.rpartition(".")[0]) in layers and not isinstance(self._at(place), type(layers[place])):
                self._put(place, layers[place])
            self._keep(name, value.clone(), name in program.trained, name in program.stored)
        self._computed = _compiled(code)
        super().train(False)

    def _keep(self, name: str, value: Tensor, trained: bool, stored: bool) -> None:
        path, _, own = name.rpartition(".")
        place = self._at(path)
        if trained:
            place.register_parameter(own, nn.Parameter(value))
        else:
            place.register_buffer(own, value, persistent=stored)

    def _at(self, path: str) -> nn.Module:
        """The part at a path, which is made if it is not there."""
        place: nn.Module = self
        for part in path.split(".") if path else ():
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place._modules[part]  # type: ignore[assignment]
        return place

    def _put(self, path: str, layer: nn.Module) -> None:
        before, _, own = path.rpartition(".")
        self._at(before).add_module(own, layer)

    def forward(self, *in_order: Any, **by_name: Any) -> Any:
        """Return what the network returns for the same arguments, tensors (m, …) among them, m >= 1."""
        arrays = in_order if self._alone and len(in_order) == 1 and not by_name else self._bound(in_order, by_name)
        results = self._computed(self, *arrays)
        return results[0] if self._structure is None else pytree.tree_unflatten(results, self._structure)

    def _bound(self, in_order: tuple[Any, ...], by_name: dict[str, Any]) -> list[Any]:
        """The arrays in order; what is constant must be what it was in the example."""
        given = dict(zip(self._names, in_order, strict=False)) | by_name
        if len(in_order) > len(self._names) or given.keys() - {*self._names}:
            takes = ", ".join(self._names)
            raise refused("inputs", f"it takes what its example had: {takes}; compact the network with another example")
        for name, value in self._constants.items():
            if given.get(name, value) != value:
                raise refused("inputs", f"{name!r} was {value!r} in the example, and is fixed", given[name])
        if missing := [name for name in self._arrays if not isinstance(given.get(name), Tensor)]:
            raise refused("inputs", f"give a tensor for {', '.join(map(repr, missing))}")
        return [given[name] for name in self._arrays]

    def train(self, mode: bool = True) -> CompactNetwork:
        """Do nothing: it computes as in evaluation mode."""
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, (shape, axes) in self.compaction.removed.items():
            found = state_dict.get(prefix + name)
            if isinstance(found, Tensor) and tuple(found.shape) == shape and any(axes.values()):
                gone = "; ".join(f"{_listed(places)} of axis {axis}" for axis, places in axes.items())
                raise refused(
                    "state_dict",
                    f"it is of the network as it was, {tuple(shape)}, of which compaction removed {gone}; load it into "
                    "the network, and compact that",
                    repr(prefix + name),
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_computed"}
        # torch's own pickle of a structure warns.
        structure = None if self._structure is None else pytree.treespec_dumps(self._structure)
        return state | {"_structure": structure}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        structure = state["_structure"]
        self._structure = None if structure is None else pytree.treespec_loads(structure)
        self._computed = _compiled(self.compaction.code)

    def extra_repr(self) -> str:
        """Return how many numbers it has and had, for ``repr``."""
        return f"{sum(parameter.numel() for parameter in self.parameters()):,} parameters"


def _compiled(code: str) -> Any:
    names: dict[str, Any] = dict(_NAMES)
    exec(code, names)  # written by torch.fx of a graph of torch's own operations
    return names["forward"]


def _listed(places: tuple[int, ...]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{', '.join(map(str, places[:_NAMED]))}{more}"
