r"""Rescaling of a well-posed model to ‖A‖∞ < 1 with the same outputs (Theorem 2.4).

For φ positively homogeneous, states may be measured in other units: with s = (I - N)⁻¹ 1, N = diag(L)|A|, S =
diag(1/s) and x' = S x,

    A' = S A S⁻¹,   B' = S B,   b' = S b,   C' = C S⁻¹,   D' = D,   d' = d.

As s = 1 + N s, row i of N' = S N S⁻¹ sums to (N s)ᵢ/sᵢ = (sᵢ - 1)/sᵢ < 1. (The paper prints S = diag(s), by which the
sums become large instead.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simplicit.errors import ConvergenceError, InputError
from simplicit.implicit.equations import StateEquation
from simplicit.implicit.groups import INPUT, OUTPUT, StateGroup, first_block
from simplicit.implicit.maps import LinearMap
from simplicit.implicit.model import ImplicitModel, as_model
from simplicit.implicit.spectral import dominating, resolvent

Blocks = dict[tuple[str, str], LinearMap]


def scaling_vector(model: ImplicitModel) -> NDArray[np.float64]:
    """Return s = (I - diag(L)|A|)⁻¹ 1 >= 1, (n,): by substitution where A is triangular after a permutation.

    Raises
    ------
    InputError
        A group is a block; s overflows float64.
    NotWellPosedError
        A has cycles and λ_pf(diag(L)|A|) < 1 fails.
    ConvergenceError
        λ_pf is so close to 1 that s satisfies its equation to less than nine digits.
    """
    if (block := first_block(as_model(model).groups)) is not None:
        raise InputError(
            f"rescaling needs elementwise activations; group {block.name!r} is a block ({block.activation.name})"
        )
    equation = model.astype(np.float64).state_equation
    if equation.plan.triangular:
        s: NDArray[np.float64] | None = _substituted(equation)
    else:
        _ = equation.contraction  # raises where the model is not well-posed
        s = resolvent(dominating(equation.A, equation.slopes), 1.0)
    if s is None:
        raise ConvergenceError(
            "(I - diag(L)|A|)⁻¹ 1 could not be found to nine digits, because λ_pf(diag(L)|A|) is too close to 1; "
            "scale A down"
        )
    for name, columns in model.slices.items():
        if not np.isfinite(s[columns]).all():
            raise InputError(
                f"the scaling overflows float64 in group {name!r}; products of the model's weights are too large"
            )
    return s


def _substituted(equation: StateEquation) -> NDArray[np.float64]:
    """s, (n,), by the substitution of a triangular plan; infinite where it overflows."""
    plan = equation.absolute.plan
    s = torch.ones(1, equation.size, dtype=torch.float64)
    for stage in plan.stages:
        for source, block in stage.terms:
            s[:, stage.target] += stage.activation.slope * block.apply(s[:, source])
    return np.asarray(plan.to_model(s)[0].nan_to_num(nan=np.inf, posinf=np.inf).numpy())


def rescale(model: ImplicitModel) -> ImplicitModel:
    """Return the same function of the inputs, with ‖diag(L)|A'|‖∞ = maxᵢ (sᵢ - 1)/sᵢ < 1, below 1 also as rounded.

    Where rounding to the model's dtype brings a row's sum, in exact arithmetic, up to 1, its entries are made smaller
    in their last digits until it is below.

    Raises
    ------
    InputError
        A group's activation is not positively homogeneous (ReLU, leaky ReLU, abs and identity are), or the scaling
        leaves the range of the dtype.
    NotWellPosedError, ConvergenceError
        As in :func:`scaling_vector`.
    """
    for group in as_model(model).groups:
        if not group.activation.homogeneous:
            raise InputError(
                f"rescaling needs positively homogeneous activations (relu, leaky_relu, abs, identity); group "
                f"{group.name!r} has {group.activation.name}"
            )
    s = scaling_vector(model)
    blocks = _contracting(model, _scaled_blocks(model, s))
    return model.with_blocks(blocks, state_bias=(model.state_bias / s).astype(model.dtype))


def _scaled_blocks(model: ImplicitModel, s: NDArray[np.float64]) -> Blocks:
    blocks: Blocks = {}
    for (row, column), block in model.blocks.items():
        left = None if row == OUTPUT else 1.0 / s[model.slices[row]]
        right = None if column == INPUT else s[model.slices[column]]
        try:
            blocks[row, column] = block.scaled(left, right)
        except InputError as error:
            raise InputError(
                f"the scaling overflows {model.dtype} in group {column!r}, block {(row, column)}; use "
                "model.astype('float64'), or smaller weights"
            ) from error
    return blocks


def _contracting(model: ImplicitModel, blocks: Blocks) -> Blocks:
    """Shrink entries by a few units in the last place where need be, so that each row of diag(L)|A| sums to below 1."""
    eps = float(np.finfo(model.dtype).eps)
    for group in model.groups:
        keys = [(row, column) for row, column in blocks if row == group.name and column != INPUT]
        shrink = eps
        while (too_large := _row_sums(group, [blocks[key] for key in keys]) >= 1.0).any():
            for key in keys:
                blocks[key] = blocks[key].scaled(np.where(too_large, 1.0 - shrink, 1.0), None)
            shrink *= 2.0
    return blocks


def _row_sums(group: StateGroup, blocks: list[LinearMap]) -> NDArray[np.float64]:
    """Upper bounds on the sums of L |entries| over each row of blocks beside each other, (size of the group,)."""
    terms = sum(block.shape[1] for block in blocks) + len(blocks) + 2
    sums = sum((block.row_sums() for block in blocks), np.zeros(group.size))
    return group.activation.slope * sums * (1.0 + terms * np.finfo(np.float64).eps)
