"""An ONNX graph under construction: its nodes and its constants."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.errors import InputError

_LARGEST = 2**31 - 2**20  # protocol buffers end at 2 GiB


class Graph:
    """The nodes and constants of a graph under construction; ``onnx`` is the package."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._bytes = 0

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant, of the graph's dtype unless it holds integers, and return its name."""
        held = array if array.dtype.kind in "iu" else array.astype(self.dtype)
        self.reserve(held.nbytes)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(held).reshape(held.shape), name)
        return name

    def number(self, value: float) -> str:
        """Add a constant without dimensions, and return its name."""
        return self.constant(np.array(value, dtype=self.dtype))

    def reserve(self, count: int, what: str = "its constants") -> None:
        """Refuse what does not fit into one file, before it is made."""
        self._bytes += count
        if self._bytes > _LARGEST:
            raise InputError(
                f"model: {what} come to {self._bytes / 2**30:.1f} GiB as dense matrices, an ONNX file holds 2 GiB; "
                "export a smaller model, or one whose layers keep their structure",
                argument="model",
            )
