"""Records of arrays, and how they lie flat: in one piece of memory, or under names in a file.

A record is a frozen dataclass whose fields are arrays, None, other records, or tuples of records. Code that reads and
writes arrays does so by the fields of its records, which mypy knows. That a record lies in memory which processes
share, travels to another machine or becomes a file is the business of this module alone.

A record of :func:`planned` arrays has shapes and types only; it says what is to be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

R = TypeVar("R")
Anything = npt.NDArray[Any]

#: Bytes to which every array is aligned, in whatever memory it lies: BLAS rounds differently at other addresses.
ALIGNMENT = 64
#: Bytes of a piece of memory, at least: smaller ones are not aligned everywhere.
LEAST_BYTES = 4096


def planned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> Anything:
    """An array that is still to be made: it has shape and type, but whatever its shape no memory behind it."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def map_arrays(change: Callable[[Anything], Any], record: R) -> R:
    """The record with each of its arrays changed."""
    mapped: R = _map(change, record)
    return mapped


def sliced(record: R, first: int, last: int) -> R:
    """The record with the lines ``first`` to ``last`` of each of its arrays."""
    return map_arrays(lambda array: array[first:last], record)


def flatten(record: Any) -> dict[str, Anything]:
    """The arrays of a record by their paths, such as ``members/0/status``."""
    return dict(_named(record, ""))


def total_bytes(record: Any) -> int:
    """Bytes of all arrays of a record."""
    return sum(array.nbytes for array in flatten(record).values())


def restore(kind: type[R], arrays: Mapping[str, Anything]) -> R:
    """The record of this type that :func:`flatten` has made these arrays of; ValueError if it is of another type."""
    try:
        record: R = _restored(kind, arrays, "")
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    if unknown := arrays.keys() - flatten(record).keys():
        raise ValueError(f"{min(unknown)} is unknown")
    return record


def allocate(record: R) -> R:
    """New arrays in memory of this process, of these shapes and types, aligned like all others."""
    layout = Layout.of(record)
    return layout.record(layout.memory())


@dataclass(frozen=True)
class Place:
    """Where an array lies in a piece of memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    def array(self, memory: Any) -> Anything:
        return np.ndarray(self.shape, self.dtype, buffer=memory, offset=self.offset)


@dataclass(frozen=True)
class Layout(Generic[R]):
    """Where the arrays of a record lie in one piece of memory, each aligned to :data:`ALIGNMENT`.

    It can be pickled, so that another process finds the record in the same memory.
    """

    places: R  # with a :class:`Place` for each array
    nbytes: int

    @classmethod
    def of(cls, record: R) -> Layout[R]:
        """The layout for arrays of these shapes and types."""
        end = 0

        def place(array: Anything) -> Place:
            nonlocal end
            found = Place(end, array.shape, array.dtype.str)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
            return found

        return cls(map_arrays(place, record), max(end, LEAST_BYTES))

    def record(self, memory: Any) -> R:
        """The arrays in a buffer of ``nbytes`` bytes that is aligned itself; read-only if the buffer is."""
        return map_arrays(lambda place: place.array(memory), self.places)  # type: ignore[attr-defined]

    def memory(self) -> npt.NDArray[np.uint8]:
        """Aligned memory of this process for the record."""
        memory = np.empty(self.nbytes + ALIGNMENT, dtype=np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        return memory[first : first + self.nbytes]


def _map(change: Callable[[Any], Any], node: Any) -> Any:
    if node is None:
        return None
    if isinstance(node, np.ndarray | Place):
        return change(node)
    if isinstance(node, tuple):
        return tuple(_map(change, item) for item in node)
    return type(node)(**{field.name: _map(change, getattr(node, field.name)) for field in fields(node)})


def _named(node: Any, path: str) -> list[tuple[str, Anything]]:
    if node is None:
        return []
    if isinstance(node, np.ndarray):
        return [(path, node)]
    if isinstance(node, tuple):
        items = [(str(number), item) for number, item in enumerate(node)]
    else:
        items = [(field.name, getattr(node, field.name)) for field in fields(node)]
    return [found for name, item in items for found in _named(item, f"{path}/{name}" if path else name)]


def _restored(hint: Any, arrays: Mapping[str, Anything], path: str) -> Any:
    """What a type hint stands for, from the arrays at or below a path, which ends in a slash unless it is empty."""
    if NoneType in get_args(hint):
        (hint,) = (option for option in get_args(hint) if option is not NoneType)
        if not any(f"{name}/".startswith(path) for name in arrays):
            return None
    if get_origin(hint) is tuple:
        items = {name.removeprefix(path).partition("/")[0] for name in arrays if name.startswith(path)}
        return tuple(_restored(get_args(hint)[0], arrays, f"{path}{number}/") for number in range(len(items)))
    if is_dataclass(hint):
        hints = get_type_hints(hint).items()
        return hint(**{name: _restored(one, arrays, f"{path}{name}/") for name, one in hints})  # type: ignore[operator]
    return arrays[path.removesuffix("/")]
