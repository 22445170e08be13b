"""What a solve on many workers costs: seconds, bytes moved, object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

GIB = 2**30


@dataclass(frozen=True)
class Constants:
    """Of one machine and one executor.

    Attributes
    ----------
    start : float
        Seconds until the workers are up.
    block : float
        Seconds of the driver for every block: to hand it out, take its result in, start the next.
    byte : float
        Seconds of the driver for every byte that travels with a block, there and back.
    journal_block, journal_byte : float
        Seconds of the driver to keep a block.
    gram_flop : float
        Seconds of a multiplication and an addition of the Gram matrix.
    contention : float
        How much longer a block takes while all workers are busy.
    """

    start: float
    block: float
    byte: float
    journal_block: float
    journal_byte: float
    gram_flop: float
    contention: float = 1.0


@dataclass(frozen=True)
class Size:
    """A problem, as far as its cost goes."""

    rows: int
    columns: int
    samples: int
    row_seconds: float  # on one worker that is alone
    non_zeros: float  # per row
    block_rows: int = 32

    @property
    def forms_gram(self) -> bool:
        return self.columns <= max(4096, 4 * self.samples)

    @property
    def shared_bytes(self) -> float:
        """Φᵀ, and G where it is formed: once on every node."""
        return 8.0 * self.columns * (self.samples + (self.columns if self.forms_gram else 0))

    @property
    def own_bytes(self) -> float:
        """Of a row, that travel with its block."""
        return 8.0 * (self.samples + 3)

    @property
    def result_bytes(self) -> float:
        """Of a row, that come back."""
        return 16.0 * self.non_zeros + 90

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block_rows)


def predict(
    size: Size, of: Constants, workers: int, *, nodes: int = 1, network: float = 1e9, journal: bool = False
) -> dict[str, Any]:
    """Seconds of a run, by what they go into.

    The driver hands out one block after another; workers solve meanwhile. Whichever takes longer decides, and at the
    end the last blocks are waited for.
    """
    travelling = size.block_rows * (size.own_bytes + size.result_bytes)
    driver = of.block + of.byte * travelling
    if journal:
        driver += of.journal_block + of.journal_byte * size.block_rows * size.result_bytes
    block_seconds = size.block_rows * size.row_seconds * of.contention
    gram = size.samples * size.columns**2 / 2 * of.gram_flop if size.forms_gram else 0.0
    solving = size.rows * size.row_seconds * of.contention / workers
    driving = size.blocks * driver
    # Nodes fetch the shared arrays from each other: the number that have them doubles.
    spreading = size.shared_bytes / network * np.ceil(np.log2(nodes)) if nodes > 1 else 0.0
    total = of.start + gram + spreading + max(solving + block_seconds / 2 * (workers > 1), driving)
    return {
        "workers": workers,
        "start": of.start,
        "gram": gram,
        "spreading": float(spreading),
        "solving": solving,
        "driving": driving,
        "total": float(total),
        "bound": "driver" if driving > solving else "workers",
        "shared_gib": size.shared_bytes / GIB,
        "moved_gib": (size.rows * (size.own_bytes + size.result_bytes) + nodes * size.shared_bytes) / GIB,
        "store_gib": (size.shared_bytes + 2 * workers / nodes * size.block_rows * size.own_bytes) / GIB,
    }
