r"""Storage of sparse matrices, counted in bits as in appendix B of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StorageBits:
    """The bits of a model: ``index`` for where its non-zeros stand, ``values`` for what they are, and ``bias``.

    ``dense`` is what the full matrices and the biases would take.
    """

    index: int
    values: int
    bias: int
    dense: int

    @property
    def total(self) -> int:
        """The sum index + values + bias."""
        return self.index + self.values + self.bias

    @property
    def ratio(self) -> float:
        """How many times smaller than dense it is: dense / total."""
        return self.dense / self.total if self.total else float("inf")


def storage_bits(matrices: Sequence[tuple[int, int, int]], n_biases: int, dtype: np.dtype[Any]) -> StorageBits:
    """The storage of matrices (n_r, n_c, nnz) in CSR, each with n_r⌈log₂ nnz⌉ + nnz⌈log₂ n_c⌉ bits of index.

    There are ``n_biases`` numbers beside them; a value takes the bits of ``dtype``.
    """
    width = 8 * dtype.itemsize
    return StorageBits(
        index=sum(rows * _ceil_log2(nnz) + nnz * _ceil_log2(columns) for rows, columns, nnz in matrices),
        values=width * sum(nnz for _, _, nnz in matrices),
        bias=width * n_biases,
        dense=width * (sum(rows * columns for rows, columns, _ in matrices) + n_biases),
    )


def _ceil_log2(count: int) -> int:
    return (count - 1).bit_length() if count > 1 else 0
