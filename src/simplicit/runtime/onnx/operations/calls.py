"""Calls of operations: what an entry of the registry is given, and what it writes nodes with.

A program is traced at two numbers of samples before it is written, so that every size is known as a linear function of
the number of samples and every dtype is known. What torch leaves open, such as negative dimensions, broadcasting and
the promotion of dtypes, is thereby settled before a node is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.groups.program import Samples
from simplicit.runtime.onnx.graph import Graph, Input

Size = int | Samples
Sizes = tuple[Size, ...]


class NotWrittenError(Exception):
    """An operation, or a setting of it, has no form in ONNX here; its text completes "its operation …"."""


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of a program: its sizes and dtype, and either the name it has in the graph or its values."""

    sizes: Sizes
    dtype: torch.dtype
    name: str = ""
    constant: Tensor | None = None

    @property
    def rank(self) -> int:
        """Its number of dimensions."""
        return len(self.sizes)

    def like(self) -> Tensor:
        """Return a tensor of this shape and dtype for two samples, without numbers: torch tells what it makes of it."""
        shape = [size if isinstance(size, int) else 2 * size.slope + size.offset for size in self.sizes]
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def length(self, dimension: int) -> int:
        """Return the size of a dimension, which must not depend on the number of samples."""
        size = self.sizes[dimension]
        if isinstance(size, Samples):
            raise NotWrittenError(f"acts along dimension {dimension % self.rank}, which holds the samples")
        return size


class Writer:
    """What the calls of one block share: the graph, the number of samples, and constants that are written once."""

    def __init__(self, graph: Graph, z: str) -> None:
        self.graph = graph
        self._z = z
        self._samples = ""
        self._constants: dict[int, tuple[Tensor, str]] = {}

    def constant(self, tensor: Tensor) -> str:
        """Return the name of a tensor of values."""
        if id(tensor) not in self._constants:
            values = tensor.detach().resolve_neg().contiguous().numpy()
            self._constants[id(tensor)] = tensor, self.graph.of(values.dtype).constant(values)
        return self._constants[id(tensor)][1]

    def integer(self, size: Size) -> Input:
        """Return a size as a vector of one integer."""
        if isinstance(size, int):
            return np.array([size], dtype=np.int64)
        if not self._samples:
            shape = self.graph.node("Shape", self._z)
            self._samples = self.graph.node("Gather", shape, np.array([0], dtype=np.int64))
        name = self._samples
        if size.slope != 1:
            name = self.graph.node("Mul", name, np.array([size.slope], dtype=np.int64))
        return name if not size.offset else self.graph.node("Add", name, np.array([size.offset], dtype=np.int64))

    def shape(self, sizes: Sequence[Size]) -> Input:
        """Return sizes as a vector of integers."""
        whole = [size for size in sizes if isinstance(size, int)]
        if len(whole) == len(sizes):
            return np.array(whole, dtype=np.int64)
        return self.graph.node("Concat", *(self.integer(size) for size in sizes), axis=0)

    def reshape(self, x: str, sizes: Sequence[Size]) -> str:
        """Write a tensor with other sizes; the one that depends on the samples is left to the runtime."""
        if sum(isinstance(size, Samples) for size in sizes) == 1 and 0 not in sizes:
            lengths = [size if isinstance(size, int) else -1 for size in sizes]
            return self.graph.node("Reshape", x, np.array(lengths, dtype=np.int64))
        return self.graph.node("Reshape", x, self.shape(sizes), allowzero=int(0 in sizes))


class Call:
    """One call of an operation: its arguments by the names in torch's schema, and what its results are like."""

    def __init__(self, writer: Writer, packet: str, arguments: Mapping[str, Any], results: Sequence[Held]) -> None:
        self.writer, self.packet, self.arguments, self.results = writer, packet, arguments, results

    def __getitem__(self, name: str) -> Any:
        """Return an argument; None where this overload has none of that name."""
        return self.arguments.get(name)

    @property
    def result(self) -> Held:
        """What the result is like, or the first of several."""
        return self.results[0]

    @property
    def first(self) -> Held:
        """The first argument, where it is a tensor."""
        value = next(iter(self.arguments.values()))
        if not isinstance(value, Held):
            raise NotWrittenError("has a number as its first argument")
        return value

    def graph(self, dtype: torch.dtype | None = None) -> Graph:
        """Return the graph, where numbers are constants of a dtype; None stands for that of the result."""
        return self.writer.graph.of(numpy_dtype(dtype or self.result.dtype))

    def node(self, operator: str, *inputs: Input, **attributes: Any) -> str:
        """Add a node with one output; numbers are constants of the result's dtype."""
        return self.graph().node(operator, *inputs, **attributes)

    def tensor(self, value: Held | float, dtype: torch.dtype | None = None) -> str:
        """Return the name of a tensor or of a number in a dtype; None stands for the one it has."""
        if not isinstance(value, Held):
            return self.writer.constant(torch.tensor(value, dtype=dtype or self.result.dtype))
        wanted = dtype or value.dtype
        if value.constant is not None:
            same = value.dtype == wanted
            return self.writer.constant(value.constant if same else value.constant.to(wanted))
        return value.name if value.dtype == wanted else self.cast(value.name, wanted)

    def x(self, dtype: torch.dtype | None = None) -> str:
        """Return the name of the first argument in a dtype; None stands for that of the result."""
        return self.tensor(self.first, dtype or self.result.dtype)

    def cast(self, x: str, dtype: torch.dtype) -> str:
        """Write a value in another dtype."""
        return self.writer.graph.cast(x, numpy_dtype(dtype))

    def numbers(self, values: Any) -> NDArray[np.int64]:
        """Return a vector of integers."""
        return np.array(values, dtype=np.int64)

    def reshape(self, x: str, sizes: Sequence[Size]) -> str:
        """Write a tensor with other sizes."""
        return self.writer.reshape(x, sizes)

    def expand(self, x: str, old: Sizes, new: Sizes) -> str:
        """Write a tensor of sizes ``old``, broadcast to ``new``."""
        if old == new:
            return x
        # Expand broadcasts both ways, so that a size which is there already may be called 1.
        missing = len(new) - len(old)
        sizes = [1 if at >= missing and old[at - missing] == size else size for at, size in enumerate(new)]
        return self.graph().node("Expand", x, self.writer.shape(sizes))

    def dimension(self, name: str = "dim", value: Held | None = None) -> int:
        """Return an argument that is a dimension of a value, counted from the front."""
        dimension: int = self[name]
        return dimension % max((value or self.first).rank, 1)

    def dimensions(self, name: str = "dim", value: Held | None = None) -> list[int]:
        """Return an argument that is dimensions of a value, counted from the front; all of them where it is None."""
        given, rank = self[name], (value or self.first).rank
        if given is None or given == ():
            return list(range(rank))
        return [one % max(rank, 1) for one in (given if isinstance(given, tuple) else (given,))]

    def refuse(self, condition: bool, reason: str) -> None:
        """Raise that a setting has no form where a condition holds."""
        if condition:
            raise NotWrittenError(reason)


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return NumPy's name for a dtype of torch."""
    if dtype in (torch.bfloat16, torch.float16) or dtype.is_complex:
        raise NotWrittenError(f"computes in {str(dtype).removeprefix('torch.')}")
    return torch.empty(0, dtype=dtype).numpy().dtype


def common(*values: Held | float) -> torch.dtype:
    """Return the dtype in which torch computes with tensors and numbers together."""
    likes = [value.like() if isinstance(value, Held) else value for value in values]
    dtype = torch.result_type(likes[0], likes[1])
    return torch.promote_types(dtype, common(*values[1:])) if len(values) > 2 else dtype


def product(sizes: Sequence[Size]) -> Size:
    """Return the product of sizes of which at most one depends on the samples."""
    whole = math.prod(size for size in sizes if isinstance(size, int))
    for size in sizes:
        if isinstance(size, Samples):
            return Samples(whole * size.slope, whole * size.offset)
    return whole
