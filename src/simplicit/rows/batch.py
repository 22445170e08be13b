"""Records of many rows select some of their rows, put others in their places, and are joined below each other.

A record is a dataclass that derives from :class:`Batch`. The type of a field says whether every row has an entry in it:
tensors, arrays and lists with the rows first do, and records themselves; anything else belongs to all rows. Where the
type does not say enough, the metadata of the field does:

    weights: Tensor = field(metadata=SHARED)         # belongs to all rows, although it is a tensor
    kink: Tensor = field(metadata=BROADCAST)         # has a single line for all rows, or one for every row
    border: Tensor = field(metadata=padded(0.0))     # its other axes are as long as the longest row needs, filled up
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
#: Some of the rows: an index, or a mask where no field is a list.
Rows = Tensor | Index | Mask

SHARED = {"rows": "shared"}
BROADCAST = {"rows": "broadcast"}


def padded(fill: float) -> dict[str, float]:
    """Return the metadata of a field whose rows are filled up with ``fill`` where batches of other widths meet."""
    return {"fill": fill}


class Batch:
    """A record has r rows; the module says what its fields may be."""

    def select(self, rows: Rows) -> Self:
        """Return a copy of some of the rows; what all rows share is not copied."""
        return type(self)(**{item.name: _selected(self, item, rows) for item in _fields(type(self))})

    def put(self, place: Rows | tuple[Any, ...], other: Self) -> None:
        """Write the rows of ``other``, whose padded fields may be wider or narrower, in some places of this record.

        A tuple as place is an index into the rows and the axis after them, the same in every field.
        """
        for item in _fields(type(self)):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if not _has_rows(item, mine):
                continue
            if isinstance(mine, Batch):
                mine.put(place, theirs)
            elif isinstance(mine, list):
                for i, entry in zip(place.tolist(), theirs, strict=True):  # type: ignore[union-attr]
                    mine[i] = entry
            else:
                if "fill" in item.metadata and not isinstance(place, tuple):
                    mine, theirs = _of_one_width([mine, theirs], item.metadata["fill"])
                    setattr(self, item.name, mine)
                mine[_index(mine, place)] = theirs

    def widen(self, width: int) -> None:
        """Fill the padded fields up to ``width`` along all axes but the rows."""
        for item in _fields(type(self)):
            value = getattr(self, item.name)
            if isinstance(value, Batch):
                value.widen(width)
            elif "fill" in item.metadata:
                setattr(self, item.name, fill_up(value, [width] * (value.ndim - 1), item.metadata["fill"]))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts below each other, with what all rows share as the first part has it."""
        return cls(**{item.name: _joined(item, [getattr(part, item.name) for part in parts]) for item in _fields(cls)})


#: What has an entry for every row, if nothing else is declared.
_BY_ROW = (Tensor, np.ndarray, list, Batch)


def _fields(kind: type[Any]) -> tuple[Field[Any], ...]:
    return tuple(item for item in fields(kind) if item.init)


def _has_rows(item: Field[Any], value: Any) -> bool:
    """Say whether every row has an entry in a field."""
    kind = item.metadata.get("rows")
    if kind == "shared" or (kind == "broadcast" and len(value) == 1):
        return False
    return isinstance(value, _BY_ROW)


def _selected(record: Batch, item: Field[Any], rows: Rows) -> Any:
    value = getattr(record, item.name)
    if not _has_rows(item, value):
        return value
    if isinstance(value, Batch):
        return value.select(rows)
    return [value[i] for i in rows.tolist()] if isinstance(value, list) else value[_index(value, rows)]


def _index(value: Tensor | npt.NDArray[Any], place: Rows | tuple[Any, ...]) -> Any:
    """Return an index in the kind that a tensor or an array takes."""
    if isinstance(value, Tensor) and isinstance(place, np.ndarray):
        return torch.from_numpy(place).to(value.device)
    return place.cpu().numpy() if isinstance(value, np.ndarray) and isinstance(place, Tensor) else place


def _joined(item: Field[Any], values: list[Any]) -> Any:
    first = values[0]
    if not _has_rows(item, first):
        return first
    if isinstance(first, Batch):
        return first.joined(values)
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    return torch.cat(_of_one_width(values, item.metadata["fill"]) if "fill" in item.metadata else values)


def _of_one_width(values: list[Tensor], fill: float) -> list[Tensor]:
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    return [fill_up(value, shape, fill) for value in values]


def fill_up(value: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    """Return a tensor (r, ...) with its other axes filled up to ``shape``; itself where they are so long already."""
    if list(value.shape[1:]) == list(shape):
        return value
    result = value.new_full((len(value), *shape), fill)
    result[(slice(None), *(slice(size) for size in value.shape[1:]))] = value
    return result
