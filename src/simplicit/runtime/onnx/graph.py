"""An ONNX graph under construction: its nodes and its constants."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import refused

_LARGEST = 2**31 - 2**20  # protocol buffers end at 2 GiB
Input = str | float | NDArray[Any]


class Graph:
    """The nodes and constants of a graph under construction; ``onnx`` is the package.

    ``dtype`` is that of constants that are given as floating-point numbers.
    """

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._bytes = [0]  # a list, so that graphs of other dtypes count together

    def of(self, dtype: np.dtype[Any]) -> Graph:
        """Return the same graph, where constants that are given as floating-point numbers have another dtype."""
        graph = copy.copy(self)
        graph.dtype = dtype
        return graph

    def node(self, operator: str, *inputs: Input, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output; inputs that are no names are constants."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self._add(operator, inputs, [output], attributes)
        return output

    def nodes_of(self, operator: str, *inputs: Input, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs, and return their names."""
        names = [f"{operator.lower()}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self._add(operator, inputs, names, attributes)
        return names

    def _add(self, operator: str, inputs: Sequence[Input], outputs: list[str], attributes: dict[str, Any]) -> None:
        names = [given if isinstance(given, str) else self.constant(np.asarray(given)) for given in inputs]
        self.nodes.append(self.onnx.helper.make_node(operator, names, outputs, **attributes))

    def cast(self, x: str, dtype: np.dtype[Any]) -> str:
        """Add a node that turns a value into a dtype, and return its name."""
        return self.node("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def sum(self, parts: Sequence[str]) -> str:
        """Add the nodes for a sum of one part or more, and return its name."""
        return reduce(lambda total, part: self.node("Add", total, part), parts)

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant, of the graph's dtype unless it holds integers or truth values, and return its name."""
        held = array if array.dtype.kind in "iub" else array.astype(self.dtype)
        self.reserve(held.nbytes)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(held).reshape(held.shape), name)
        return name

    def reserve(self, count: int, what: str = "its constants") -> None:
        """Refuse what does not fit into one file, before it is made."""
        self._bytes[0] += count
        if self._bytes[0] > _LARGEST:
            raise refused(
                "model",
                f"{what} come to {self._bytes[0] / 2**30:.1f} GiB as dense matrices, an ONNX file holds 2 GiB; "
                "export a smaller model, or one whose layers keep their structure",
            )

    def prune(self, outputs: Sequence[str]) -> None:
        """Leave out nodes and constants that no output needs, such as the indices of a maximum."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes[:] = reversed(kept)
        for name in [name for name in self.constants if name not in needed]:
            del self.constants[name]
