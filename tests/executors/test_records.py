"""Records of arrays: flat and back, in memory and under names."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.executors.records import (
    ALIGNMENT,
    LEAST_BYTES,
    Layout,
    allocate,
    flatten,
    map_arrays,
    planned,
    restore,
    sliced,
    total_bytes,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Leaf:
    values: Array
    status: Array | None = None


@dataclass(frozen=True, eq=False)
class Tree:
    rows: Array
    first: Leaf
    none: Leaf | None
    members: tuple[Leaf, ...]


def tree() -> Tree:
    members = (Leaf(np.zeros((3, 0))), Leaf(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1], dtype=np.int8)))
    return Tree(np.arange(3), Leaf(np.arange(6.0).reshape(3, 2)), None, members)


def same(one: Any, other: Any) -> None:
    first, second = flatten(one), flatten(other)
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_arrays_have_their_paths_as_names_and_come_back() -> None:
    flat = flatten(tree())
    assert list(flat) == ["rows", "first/values", "members/0/values", "members/1/values", "members/1/status"]
    same(restore(Tree, dict(reversed(flat.items()))), tree())
    alone = restore(Tree, {name: flat[name] for name in ("rows", "first/values")})
    assert alone.members == ()
    assert alone.none is None


@pytest.mark.parametrize(
    "change",
    [
        {"rows": None},
        {"other": np.zeros(1)},
        {"first": np.zeros(1), "first/values": None},
        {"rows/values": np.zeros(1)},
        {"members/7/values": np.zeros(1)},
        {"members/0/values": None, "members/0/other": np.zeros(1)},
    ],
    ids=["missing", "unknown", "an array for a record", "a record for an array", "a gap", "unknown below"],
)
def test_arrays_of_something_else_are_refused(change: dict[str, Any]) -> None:
    arrays = {name: array for name, array in (flatten(tree()) | change).items() if array is not None}
    with pytest.raises(ValueError, match=r"is missing|is unknown"):
        restore(Tree, arrays)


def test_a_plan_takes_no_memory() -> None:
    plan = Leaf(planned((10**6, 10**5)), planned((3,), np.int8))
    assert total_bytes(plan) == 8 * 10**11 + 3
    assert plan.values.base is not None
    assert plan.values.base.nbytes == 8


def test_a_layout_is_aligned_and_reads_what_was_written() -> None:
    layout = Layout.of(tree())
    assert layout.nbytes == LEAST_BYTES
    assert repr(pickle.loads(pickle.dumps(layout))) == repr(layout)
    memory = layout.memory()
    written = layout.record(memory)
    for name, array in flatten(written).items():
        assert array.ctypes.data % ALIGNMENT == 0
        array[...] = flatten(tree())[name]
    memory.flags.writeable = False
    read = pickle.loads(pickle.dumps(layout)).record(memory)
    same(read, tree())
    assert not any(array.flags.writeable for array in flatten(read).values())


def test_new_arrays_have_the_shapes_of_a_plan() -> None:
    made = allocate(map_arrays(lambda array: planned(array.shape, array.dtype), tree()))
    assert {name: array.shape for name, array in flatten(made).items()} == {
        name: array.shape for name, array in flatten(tree()).items()
    }
    assert all(array.flags.writeable for array in flatten(made).values())


def test_a_slice_is_of_every_array() -> None:
    part = sliced(tree(), 1, 3)
    np.testing.assert_array_equal(part.first.values, [[2.0, 3.0], [4.0, 5.0]])
    assert part.members[1].status is not None
    assert part.members[1].status.tolist() == [0, 1]
    assert part.none is None
    assert np.shares_memory(sliced(part, 0, 1).rows, part.rows)
