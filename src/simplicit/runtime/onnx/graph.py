"""An ONNX graph under construction: its nodes and its constants."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import refused

_LARGEST = 2**31 - 2**20  # protocol buffers end at 2 GiB


class Graph:
    """The nodes and constants of a graph under construction; ``onnx`` is the package."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._bytes = 0

    def node(
        self, operator: str, *inputs: str | float | NDArray[Any], name: str | None = None, **attributes: Any
    ) -> str:
        """Add a node with one output, and return the name of the output; inputs that are no names are constants."""
        names = [given if isinstance(given, str) else self._constant(np.asarray(given)) for given in inputs]
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def sum(self, parts: Sequence[str]) -> str:
        """Add the nodes for a sum of one part or more, and return its name."""
        return reduce(lambda total, part: self.node("Add", total, part), parts)

    def _constant(self, array: NDArray[Any]) -> str:
        """Add a constant, of the graph's dtype unless it holds integers, and return its name."""
        held = array if array.dtype.kind in "iu" else array.astype(self.dtype)
        self.reserve(held.nbytes)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(held).reshape(held.shape), name)
        return name

    def reserve(self, count: int, what: str = "its constants") -> None:
        """Refuse what does not fit into one file, before it is made."""
        self._bytes += count
        if self._bytes > _LARGEST:
            raise refused(
                "model",
                f"{what} come to {self._bytes / 2**30:.1f} GiB as dense matrices, an ONNX file holds 2 GiB; "
                "export a smaller model, or one whose layers keep their structure",
            )
