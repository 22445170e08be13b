"""States of a network, recorded while its graph runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import as_count
from simplicit.implicit import StateGroup
from simplicit.implicit.batch import chunks
from simplicit.implicit.groups import slices_of
from simplicit.network.graph import NetworkGraph


@dataclass(frozen=True, eq=False)
class States:
    """What a network does with m samples, in the layout of its implicit model.

    Attributes
    ----------
    U : array, shape (m, p)
        The inputs, flattened. They may share memory with the arrays that they were made from.
    Z : array, shape (m, n)
        The pre-activations, Z = X Aᵀ + U Bᵀ + b.
    X : array, shape (m, n)
        The states, X = φ(Z).
    Y : array, shape (m, q)
        The outputs, Y = X Cᵀ + U Dᵀ + d.
    groups : tuple of StateGroup
        The groups of states, in the order of the columns of Z and X.
    """

    U: NDArray[Any]
    Z: NDArray[Any]
    X: NDArray[Any]
    Y: NDArray[Any]
    groups: tuple[StateGroup, ...]

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of Z and X that belong to each group, by its name."""
        return slices_of(self.groups)


def record_states(
    graph: NetworkGraph,
    activations: Mapping[Node, StateGroup],
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
    n_states = sum(group.size for group in groups)
    Z, X, Y = (U.new_empty(U.shape[0], width) for width in (n_states, n_states, n_outputs))
    columns = slices_of(groups)
    targets = {node: columns[group.name] for node, group in activations.items() if group.name in columns}
    for rows in chunks(U.shape[0], 1, batch_size):
        count = U[rows].shape[0]
        # The graph was traced for two samples or more, where torch may treat one differently (squeeze).
        batch = U[rows].expand(max(2, count), -1).reshape(-1, *graph.input_shape)
        with torch.no_grad():
            result = _Recorder(graph, targets, Z[rows], X[rows]).run(*graph.constants.values(), batch)
        Y[rows] = result[:count].reshape(count, -1)
    return States(U.numpy(), Z.numpy(), X.numpy(), Y.numpy(), groups)


class _Recorder(Interpreter):
    """An interpreter that runs the graph on one batch and writes what enters and leaves each activation."""

    def __init__(self, graph: NetworkGraph, targets: Mapping[Node, slice], Z: Tensor, X: Tensor) -> None:
        super().__init__(graph.module)
        self._targets, self._Z, self._X = targets, Z, X

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._targets:
            (pre_activation, *_), _ = self.fetch_args_kwargs_from_env(n)
            for rows, value in ((self._Z, pre_activation), (self._X, result)):
                rows[:, self._targets[n]] = value[: len(rows)].reshape(len(rows), -1)
        return result
