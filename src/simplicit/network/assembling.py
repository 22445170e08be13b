"""From affine values, in float64, to the implicit model in the network's own dtype: every number is rounded once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, LinearMap, StateGroup
from simplicit.implicit.groups import OUTPUT
from simplicit.network.affine import Affine, Shape, Vector


def model_of(
    groups: tuple[StateGroup, ...],
    pre_activations: Mapping[str, Affine],
    output: Affine,
    *,
    dtype: np.dtype[Any],
    input_shape: Shape,
) -> ImplicitModel:
    """The model of groups, in the order of the states, with their pre-activations by name, and an output.

    InputError is raised where a composed weight leaves the range of the dtype.
    """
    blocks = {
        (row, source): _rounded(block, dtype, source, row)
        for row, value in {**pre_activations, OUTPUT: output}.items()
        for source, block in value.terms.items()
    }
    state_bias = [_rounded_bias(pre_activations[group.name].constant, dtype, group.name) for group in groups]
    return ImplicitModel(
        groups,
        blocks,
        n_inputs=math.prod(input_shape),
        n_outputs=output.size,
        state_bias=np.concatenate([np.zeros(0, dtype), *state_bias]),
        output_bias=_rounded_bias(output.constant, dtype, OUTPUT),
        input_shape=input_shape,
        output_shape=output.shape,
    )


def _rounded(block: LinearMap, dtype: np.dtype[Any], source: str, row: str) -> LinearMap:
    try:
        with np.errstate(over="ignore"):
            return block.astype(dtype)
    except InputError as error:
        raise _overflow(f"its linear layers from {source!r} to {row!r} compose to weights", dtype) from error


def _rounded_bias(bias: Vector, dtype: np.dtype[Any], row: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = bias.astype(dtype)
    if not np.isfinite(rounded).all():
        raise _overflow(f"the linear layers before {row!r} compose to a bias", dtype)
    return rounded


def _overflow(what: str, dtype: np.dtype[Any]) -> InputError:
    return refused("net", f"{what} beyond the range of {dtype}; use smaller weights, or net.double()")
