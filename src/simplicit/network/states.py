"""States of a network, recorded while its graph runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import as_count, lookups_checked
from simplicit.implicit import Block, StateGroup
from simplicit.implicit.batch import chunks
from simplicit.implicit.groups import pre_slices_of, slices_of
from simplicit.network.graph import NetworkGraph
from simplicit.network.layouts import Layout, canonical
from simplicit.network.reading import OpenedGroup
from simplicit.progress import counted


@dataclass(frozen=True, eq=False)
class States:
    """What a network does with m samples, in the layout of its implicit model.

    Attributes
    ----------
    U : array, shape (m, p)
        The inputs, flattened. They may share memory with the arrays that they were made from.
    Z : array, shape (m, n_pre)
        The pre-activations, Z = X Aᵀ + U Bᵀ + b.
    X : array, shape (m, n)
        The states, X = φ(Z).
    Y : array, shape (m, q)
        The outputs, Y = X Cᵀ + U Dᵀ + d.
    groups : tuple of StateGroup
        The groups of states, in the order of the columns of Z and of X.
    """

    U: NDArray[Any]
    Z: NDArray[Any]
    X: NDArray[Any]
    Y: NDArray[Any]
    groups: tuple[StateGroup, ...]

    def __repr__(self) -> str:
        sizes = ((name, getattr(self, name)) for name in "UZXY")
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sizes)
        return f"States({shapes}, {self.X.dtype}, {len(self.groups)} groups)"

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of X that belong to each group, by its name, and of Z where no group is a block."""
        return slices_of(self.groups)


def record_states(
    graph: NetworkGraph,
    opened: Mapping[Node, OpenedGroup],
    groups: tuple[StateGroup, ...],
    n_outputs: int,
    inputs: Any,
    batch_size: int,
) -> States:
    """Record the states of ``inputs``, as the graph takes them, in some groups, ``batch_size`` samples at a time.

    InputError is raised for inputs of another shape, without samples or not finite, and a ``batch_size`` below 1.
    """
    batch_size = as_count("batch_size", batch_size)
    U = graph.batch(inputs)
    widths = sum(group.pre_size for group in groups), sum(group.size for group in groups), n_outputs
    Z, X, Y = (U.new_empty(U.shape[0], width) for width in widths)
    places = _Places.of(opened, groups)
    parts = list(chunks(U.shape[0], 1, batch_size))
    for rows in counted(parts, "states", len(parts)):
        count = U[rows].shape[0]
        # The graph was traced for two samples or more, where torch may treat one differently (squeeze).
        batch = U[rows].expand(max(2, count), -1).reshape(-1, *graph.input_shape).contiguous()
        with torch.no_grad(), lookups_checked():
            result = _Recorder(graph, places, Z[rows], X[rows]).run(*graph.constants.values(), batch)
            for at, columns, phi in places.blocks:
                X[rows, columns] = phi(Z[rows, at])
        Y[rows] = result[:count].reshape(count, -1)
    return States(U.numpy(), Z.numpy(), X.numpy(), Y.numpy(), groups)


@dataclass(frozen=True)
class _Places:
    """Which columns of Z and X nodes give; those of X that blocks give are computed from Z."""

    before: Mapping[Node, list[tuple[slice, Layout | None]]]
    after: Mapping[Node, tuple[slice, Layout | None]]
    blocks: list[tuple[slice, slice, Block]]

    @classmethod
    def of(cls, opened: Mapping[Node, OpenedGroup], groups: tuple[StateGroup, ...]) -> _Places:
        """The places for some groups, in their order."""
        pre, states, before = pre_slices_of(groups), slices_of(groups), dict[Node, list[tuple[slice, Layout | None]]]()
        after, blocks = dict[Node, tuple[slice, Layout | None]](), []
        for node, one in opened.items():
            group = one.group
            if group.name not in states:
                continue
            phi, first = group.activation, pre[group.name].start
            sizes = [math.prod(shape) for shape in phi.operands] if isinstance(phi, Block) else [group.size]
            for (operand, layout), size in zip(one.operands, sizes, strict=True):
                before.setdefault(operand, []).append((slice(first, first + size), layout))
                first += size
            if isinstance(phi, Block):
                blocks.append((pre[group.name], states[group.name], phi))
            else:
                after[node] = states[group.name], one.layout
        return cls(before, after, blocks)


class _Recorder(Interpreter):
    """An interpreter that runs the graph on one batch and writes what enters groups, and leaves elementwise ones."""

    def __init__(self, graph: NetworkGraph, places: _Places, Z: Tensor, X: Tensor) -> None:
        super().__init__(graph.module)
        self._places, self._Z, self._X = places, Z, X

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        for columns, layout in self._places.before.get(n, ()):
            self._write(self._Z, columns, result, layout)
        if n in self._places.after:
            columns, layout = self._places.after[n]
            self._write(self._X, columns, result, layout)
        return result

    def _write(self, into: Tensor, columns: slice, value: Tensor, layout: Layout | None) -> None:
        """Write the samples of a value, flattened, as many as there are rows."""
        first = canonical(value, max(2, len(into)), layout)
        into[:, columns] = first[: len(into)].reshape(len(into), columns.stop - columns.start)
