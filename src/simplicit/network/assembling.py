"""From affine values to the implicit model in the network's own dtype: rows of blocks, every number rounded once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.implicit import CsrMap, ImplicitModel, LinearMap, StateGroup
from simplicit.implicit.groups import OUTPUT
from simplicit.network.affine import Affine, Shape, Vector
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


def model_of(
    groups: tuple[StateGroup, ...],
    pre_activations: Mapping[str, Affine | Row],
    output: Affine,
    *,
    dtype: np.dtype[Any],
    input_shape: Shape,
) -> ImplicitModel:
    """The model of groups, in the order of the states, with their pre-activations by name and an output.

    InputError is raised where a composed weight leaves the range of the dtype.
    """
    rows = {name: _row(value, name, dtype) for name, value in {**pre_activations, OUTPUT: output}.items()}
    return ImplicitModel(
        groups,
        {(name, source): block for name, row in rows.items() for source, block in row.blocks.items()},
        n_inputs=math.prod(input_shape),
        n_outputs=output.size,
        state_bias=np.concatenate([np.zeros(0, dtype), *(rows[group.name].bias for group in groups)]),
        output_bias=rows[OUTPUT].bias,
        input_shape=input_shape,
        output_shape=output.shape,
    )


def _row(value: Affine | Row, name: str, dtype: np.dtype[Any]) -> Row:
    return value if isinstance(value, Row) else Row.of(value, name, dtype)


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
