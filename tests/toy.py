"""A work small enough to see through: blocks that add numbers, and misbehave on demand.

Workers in other processes find this module by its name, so it must be importable by it: pytest puts tests/ on the path.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_info

from simplicit.executors import Arrays, Block, Work
from simplicit.executors.records import flatten, planned

__all__ = ["ROWS_PER_BLOCK", "ToyResult", "ToyWork", "expected"]

ROWS_PER_BLOCK = 3

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ToyShared:
    whole: Array
    mask: Array


@dataclass(frozen=True, eq=False)
class ToyRows:
    row: Array


@dataclass(frozen=True, eq=False)
class ToyEntries:
    entry: Array


@dataclass(frozen=True, eq=False)
class ToyResult:
    sums: Array
    threads: Array
    tiny: Array
    writable: Array
    aligned: Array
    process: Array


class ToyWork(Work[ToyResult]):
    """Row i of block b is (3b + i) times ``factor``, plus the block's entries, plus the sum of a shared array.

    Parameters
    ----------
    blocks : int
    factor : float
    do : dict of int to str
        What a block does beside: "raise", "die", "hang"; "die once" and "hang once" need ``folder``.
    folder : path
        Where a block notes that it has been here.
    """

    def __init__(
        self, blocks: int, factor: float = 1.0, do: dict[int, str] | None = None, folder: Path | None = None
    ) -> None:
        self.blocks = [
            Block(b, 0, (ROWS_PER_BLOCK * b, ROWS_PER_BLOCK * (b + 1)), (b * (b + 1) // 2, (b + 1) * (b + 2) // 2))
            for b in range(blocks)
        ]
        self.factor = factor
        self.arrays = Arrays(
            ToyShared(planned((5, 7)), planned((3,), bool)),
            ToyRows(planned((ROWS_PER_BLOCK * blocks, 1))),
            ToyEntries(planned((blocks * (blocks + 1) // 2,), np.int64)),
        )
        self.opener = partial(ToySolver, factor=factor, do=do or {}, folder=str(folder))

    def fill(self, arrays: Arrays[ToyShared, ToyRows, ToyEntries], threads: int) -> None:
        assert threads >= 1
        arrays.shared.whole[...] = 0.5
        arrays.shared.mask[...] = [True, False, True]
        arrays.rows.row[:, 0] = np.arange(len(arrays.rows.row))
        arrays.entries.entry[...] = 2

    def describe(self, block: Block) -> str:
        return f"rows {block.rows[0]} to {block.rows[1] - 1}"


def expected(work: ToyWork, block: Block) -> list[float]:
    """What a block must come to: 5 x 7 halves, and 2 for each of its number + 1 entries."""
    return [work.factor * row + 17.5 + 2 * (block.number + 1) for row in range(*block.rows)]


@dataclass
class ToySolver:
    shared: ToyShared
    factor: float
    do: dict[int, str]
    folder: str

    def __call__(self, block: Block, rows: ToyRows, entries: ToyEntries) -> ToyResult:
        misbehave(self.do.get(block.number, ""), Path(self.folder), block)
        shared = flatten(self.shared).values()
        arrays = [*shared, rows.row, entries.entry]
        blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
        return ToyResult(
            sums=rows.row[:, 0] * self.factor + self.shared.whole.sum() + entries.entry.sum(),
            threads=np.array([torch.get_num_threads(), *blas]),
            tiny=(torch.tensor(2.0**-1022, dtype=torch.float64) / 2).numpy().reshape(1),
            writable=np.array([array.flags.writeable for array in arrays]),
            aligned=np.array([array.ctypes.data % 64 == 0 for array in shared]),
            process=np.array([os.getpid()]),
        )


def misbehave(action: str, folder: Path, block: Block) -> None:
    if action.endswith(" once"):
        mark = folder / f"block-{block.number}"
        if mark.exists():
            return
        mark.touch()
    if action == "raise":
        raise ValueError(f"block {block.number} does not like its rows")
    if action.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if action.startswith("hang"):
        time.sleep(1000)
    if action.startswith("stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if action.startswith("slow"):
        time.sleep(0.3)
