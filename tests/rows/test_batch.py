"""Records of rows: what is selected, put and joined, and what all rows share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from simplicit.rows.batch import BROADCAST, SHARED, Batch, Rows, fill_up, padded


@dataclass
class Inner(Batch):
    value: Tensor = field(metadata=padded(-1))


@dataclass
class Record(Batch):
    number: Tensor
    array: npt.NDArray[np.float64]
    names: list[str]
    inner: Inner
    common: Tensor = field(metadata=SHARED)
    price: Tensor = field(metadata=BROADCAST)
    maybe: Tensor | None
    flag: bool


def record(first: int, width: int) -> Record:
    rows = torch.arange(first, first + 3)
    return Record(
        number=rows,
        array=rows.double().numpy().copy(),
        names=[f"row {i}" for i in rows.tolist()],
        inner=Inner(rows[:, None].repeat(1, width)),
        common=torch.ones(7),
        price=torch.zeros(1, 2),
        maybe=None,
        flag=True,
    )


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), np.array([2, 0])], ids=["tensor", "array"])
def test_selected_rows_are_copies_and_what_is_shared_is_not(rows: Rows) -> None:
    whole = record(0, 2)
    part = whole.select(rows)
    assert part.number.tolist() == part.array.tolist() == [2, 0]
    assert part.names == ["row 2", "row 0"]
    assert part.inner.value.tolist() == [[2, 2], [0, 0]]
    assert part.common is whole.common
    assert part.price is whole.price
    assert part.maybe is None
    assert part.flag
    part.number[0] = part.inner.value[0] = 9
    assert whole.number.tolist() == [0, 1, 2]
    assert whole.inner.value[2].tolist() == [2, 2]


def test_one_line_for_every_row_is_selected_too() -> None:
    whole = record(0, 1)
    whole.price = torch.arange(3.0)[:, None]
    assert whole.select(torch.tensor([1, 2])).price.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(("mine", "theirs"), [(1, 3), (3, 1), (2, 2)])
def test_rows_are_put_and_filled_up(mine: int, theirs: int) -> None:
    whole = record(0, mine)
    whole.put(torch.tensor([1]), record(7, theirs).select(torch.tensor([2])))
    assert whole.number.tolist() == whole.array.tolist() == [0, 9, 2]
    assert whole.names == ["row 0", "row 9", "row 2"]
    width = max(mine, theirs)
    assert whole.inner.value[0].tolist() == [0] * mine + [-1] * (width - mine)
    assert whole.inner.value[1].tolist() == [9] * theirs + [-1] * (width - theirs)


def test_places_within_rows_are_put() -> None:
    inner = Inner(torch.zeros(2, 3, dtype=torch.int64))
    inner.put((torch.tensor([[0], [1]]), torch.tensor([[2], [0]])), Inner(torch.tensor([[5], [6]])))
    assert inner.value.tolist() == [[0, 0, 5], [6, 0, 0]]


def test_records_are_joined_below_each_other() -> None:
    whole = Record.joined([record(0, 1), record(3, 2)])
    assert whole.number.tolist() == whole.array.tolist() == list(range(6))
    assert whole.names[-1] == "row 5"
    assert whole.inner.value[2:4].tolist() == [[2, -1], [3, 3]]
    assert whole.price.shape == (1, 2)
    assert whole.common.shape == (7,)


def test_padded_fields_are_widened() -> None:
    whole = record(0, 1)
    whole.inner.widen(3)
    assert whole.inner.value.tolist() == [[i, -1, -1] for i in range(3)]
    square = torch.ones(2, 1, 1)
    assert fill_up(square, [1, 1], 0.0) is square
    assert fill_up(square, [2, 2], 0.0).sum() == 2
