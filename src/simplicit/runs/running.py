"""How rows are solved: the settings that `fit` and `solve` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from simplicit.executors import Executor, Threads


@dataclass(frozen=True)
class Running:
    """How rows are solved, and where.

    Parameters
    ----------
    tol : float
        Relative duality gap that every row must reach.
    throw : bool
        Stop if a row misses the tolerance, or write it, marked in rows.json.
    executor : Executor
        Where blocks of rows are solved. The result is the same, bit for bit.
    block_rows : int, optional
        Rows per block. Default: 32, fewer on many columns. Other blocks round otherwise.
    device : str
        Where the batched part of the row solver runs: cpu or cuda.
    """

    panel: ClassVar[str] = "Running"

    tol: float = 1e-6
    throw: bool = True
    executor: Executor = field(default_factory=Threads)
    block_rows: int | None = None
    device: str = "cpu"
