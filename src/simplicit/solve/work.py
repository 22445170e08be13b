"""Blocks of row problems as a work that an executor can run: its arrays, and how they are filled.

Φᵀ in units and its Gram matrix are written once per design, the rows in the order of the blocks, so that each block's
are one slice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.executors import Arrays, Block, Work
from simplicit.executors.records import flatten, map_arrays, planned, total_bytes
from simplicit.progress import counted
from simplicit.rows.batch import Index
from simplicit.solve.arrays import (
    BlockResult,
    Entries,
    MemberArrays,
    RowArrays,
    RowMemberArrays,
    SharedArrays,
    TargetArrays,
)
from simplicit.solve.block import RowSettings, RowSolver
from simplicit.solve.cut import Group, Problem, gather, make_blocks
from simplicit.solve.options import Method

#: Designs are prepared together, so that their blocks share the workers, while they take no more bytes than this.
BATCH_BYTES = 2**30
#: Rows that a message lists.
LISTED = 6

RowWorkArrays = Arrays[SharedArrays, RowArrays, Entries | None]


def make_works(problems: Sequence[Problem], method: Method) -> list[RowWork]:
    """The blocks of problems that differ in penalty and ball alone, in as few works as fit in memory together."""
    batches: list[list[Group]] = [[]]
    size = 0
    for group in gather(problems[0], method.block_rows):
        need = total_bytes(problems[0].source.plan_design(group.columns))
        if batches[-1] and size + need > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(group)
        size += need
    works: list[RowWork] = []
    for groups in batches:
        works.append(RowWork(problems, groups, method, first=sum(len(work.blocks) for work in works)))
    return works


class RowWork(Work[BlockResult]):
    """Blocks of row problems, the members of a path, on some designs, numbered from ``first``."""

    def __init__(self, problems: Sequence[Problem], groups: Sequence[Group], method: Method, first: int) -> None:
        self.groups, self.source, self.device = groups, problems[0].source, problems[0].device
        self.settings = RowSettings(
            method=method,
            equality=problems[0].penalty.equality,
            cardinality=tuple(problem.penalty.cardinality for problem in problems),
            masked=tuple(group.masked for group in groups),
            n_columns=problems[0].shape[1],
            device=self.device,
        )
        self.opener = partial(RowSolver, settings=self.settings)
        self.order: Index = np.concatenate([group.rows for group in groups])
        n, start = len(self.order), problems[0].warm_start
        self._start = None if start is None else csr_array(start[self.order])
        self._shared, self._rows = self._at_hand(problems)
        rows = map_arrays(lambda array: planned((n, *array.shape[1:]), array.dtype), self._rows)
        nnz = 0 if self._start is None else self._start.nnz
        self.arrays: RowWorkArrays = Arrays(
            replace(self._shared, designs=tuple(self.source.plan_design(group.columns) for group in groups)),
            replace(rows, targets=self.source.plan_targets(n)),
            None if start is None else Entries(planned((nnz,), np.intp), planned((nnz,))),
        )
        ends = np.zeros(n + 1, dtype=np.intp) if self._start is None else self._start.indptr
        self.blocks = make_blocks(groups, first, ends)
        self.fill_seconds = 0.0  # how long it took to fill the arrays, once that is done

    def _at_hand(self, problems: Sequence[Problem]) -> tuple[SharedArrays, RowArrays]:
        """The small arrays, that are there already: those that blocks share, and those with a line for every row."""
        first, penalties = problems[0], [problem.penalty_arrays for problem in problems]
        # What is common to all rows stays so: a single row of problems has it in every block.
        common = [map_arrays(lambda part: part if len(part) == 1 else None, penalty) for penalty in penalties]
        by_row = [map_arrays(lambda part: None if len(part) == 1 else part, penalty) for penalty in penalties]
        shared = SharedArrays(
            designs=(),
            members=tuple(MemberArrays(p.in_ball, penalty) for p, penalty in zip(problems, common, strict=True)),
            norms=self.source.norms() if self.settings.method.rounds > 1 else None,
            feature_mean=self.source.feature_mean,
        )
        rows = RowArrays(
            row=np.arange(first.shape[0]),
            weight=first.weight,
            members=tuple(RowMemberArrays(p.radius, penalty) for p, penalty in zip(problems, by_row, strict=True)),
            support=first.support if any(self.settings.masked) else None,
            starts=None if first.warm_start is None else np.diff(first.warm_start.indptr).astype(np.intp),
            targets=TargetArrays(),
        )
        return shared, rows

    def fill(self, arrays: RowWorkArrays, threads: int) -> None:
        begun = time.perf_counter()
        for array, place in _pairs(self._shared, replace(arrays.shared, designs=())):
            place[...] = array
        designs = zip(arrays.shared.designs, self.groups, strict=True)
        for design, group in counted(designs, "Gram matrix", len(self.groups)):
            self.source.fill_design(design, group.columns, self.device, threads)
        for array, place in _pairs(self._rows, replace(arrays.rows, targets=TargetArrays())):
            np.take(array, self.order, axis=0, out=place, mode="clip")
        self.source.fill_targets(arrays.rows.targets, self.order)
        if self._start is not None and arrays.entries is not None:
            arrays.entries.columns[...], arrays.entries.values[...] = self._start.indices, self._start.data
        self.fill_seconds = time.perf_counter() - begun

    def numbers(self, block: Block) -> Index:
        """The rows of a block, as the targets count them."""
        return self.order[slice(*block.rows)]

    def fits(self, block: Block, result: BlockResult) -> bool:
        """Whether a result, from a journal, is of this block."""
        return np.array_equal(result.rows, self.numbers(block))

    def describe(self, block: Block) -> str:
        rows = np.sort(self.numbers(block)).tolist()
        listed = ", ".join(map(str, rows[:LISTED])) + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")
        return f"row{'s' if len(rows) > 1 else ''} {listed}"


def _pairs(at_hand: Any, places: Any) -> zip[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The arrays of two records of one shape, side by side."""
    return zip(flatten(at_hand).values(), flatten(places).values(), strict=True)
