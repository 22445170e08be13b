"""Rows of blocks of [A B] or [C D], in the dtype of the model, read off affine values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.implicit import CsrMap, LinearMap
from simplicit.network.affine import Affine, Vector
from simplicit.network.repeated import once


@dataclass(frozen=True)
class Row:
    """One row of blocks of [A B], or of [C D], with its bias, in the dtype of the model."""

    blocks: dict[str, LinearMap]
    bias: NDArray[Any]

    @classmethod
    def of(cls, value: Affine, row: str, dtype: np.dtype[Any]) -> Row:
        """The row that an affine value is; InputError where it leaves the range of the dtype."""
        blocks = {source: _rounded(block, dtype, source, row) for source, block in value.terms.items()}
        return cls(blocks, _rounded_bias(value.constant, dtype, row))


def _rounded(block: LinearMap, dtype: np.dtype[Any], source: str, row: str) -> LinearMap:
    try:
        with np.errstate(over="ignore"):
            return once(_in_dtype, block, dtype) if isinstance(block, CsrMap) else block.astype(dtype)
    except InputError as error:
        raise _overflow(f"its linear layers from {source!r} to {row!r} compose to weights", dtype) from error


def _in_dtype(block: CsrMap, dtype: np.dtype[Any]) -> CsrMap:
    return block.astype(dtype)


def _rounded_bias(bias: Vector, dtype: np.dtype[Any], row: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = bias.astype(dtype)
    if not np.isfinite(rounded).all():
        raise _overflow(f"the linear layers before {row!r} compose to a bias", dtype)
    return rounded


def _overflow(what: str, dtype: np.dtype[Any]) -> InputError:
    return refused("net", f"{what} beyond the range of {dtype}; use smaller weights, or net.double()")
