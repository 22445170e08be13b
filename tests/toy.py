"""A work small enough to see through: blocks that add numbers, and misbehave on demand.

Workers in other processes find this module by its name, so it must be importable by it: pytest puts tests/ on the path.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

from simplicit.executors.work import Arrays, Block, Result, Spec, Work

__all__ = ["ROWS_PER_BLOCK", "ToyWork", "expected", "numbers"]

ROWS_PER_BLOCK = 3


def numbers(result: Result) -> list[float]:
    return np.asarray(result["sums"]).tolist()


class ToyWork(Work):
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
        self.shared = {"whole": Spec((5, 7)), "mask": Spec((3,), "|b1")}
        self.rows = {"row": Spec((ROWS_PER_BLOCK * blocks, 1))}
        self.entries = {"entry": Spec((blocks * (blocks + 1) // 2,), "<i8")}
        self.settings = {"factor": factor, "do": do or {}, "folder": str(folder)}

    def fill(self, arrays: Arrays, threads: int) -> None:
        assert threads >= 1
        arrays["whole"][...] = 0.5
        arrays["mask"][...] = [True, False, True]
        arrays["row"][:, 0] = np.arange(len(arrays["row"]))
        arrays["entry"][...] = 2

    def describe(self, block: Block) -> str:
        return f"rows {block.rows[0]} to {block.rows[1] - 1}"

    @staticmethod
    def opener(shared: Arrays, settings: Any) -> Callable[[Block, Arrays], Result]:
        return lambda block, own: solved(shared, settings, block, own)


def expected(work: ToyWork, block: Block) -> list[float]:
    """What a block must come to: 5 x 7 halves, and 2 for each of its number + 1 entries."""
    return [work.factor * row + 17.5 + 2 * (block.number + 1) for row in range(*block.rows)]


def solved(shared: Arrays, settings: Any, block: Block, own: Arrays) -> Result:
    misbehave(settings["do"].get(block.number, ""), Path(settings["folder"]), block)
    arrays = {**shared, **own}
    return {
        "sums": own["row"][:, 0] * settings["factor"] + shared["whole"].sum() + own["entry"].sum(),
        "threads": np.array(
            [
                torch.get_num_threads(),
                *(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"),
            ]
        ),
        "tiny": (torch.tensor(2.0**-1022, dtype=torch.float64) / 2).numpy().reshape(1),
        "writable": np.array([array.flags.writeable for array in arrays.values()]),
        "aligned": np.array([array.ctypes.data % 64 == 0 for array in shared.values()]),
        "process": np.array([os.getpid()]),
    }


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
