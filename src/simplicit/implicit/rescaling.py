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

from simplicit.errors import InputError
from simplicit.implicit.model import INPUT, OUTPUT, ImplicitModel
from simplicit.implicit.spectral import dominating, resolvent

__all__ = ["rescale", "scaling_vector"]

_SUM_TOL = 1e-12


def scaling_vector(model: ImplicitModel) -> NDArray[np.float64]:
    """s = (I - diag(L)|A|)⁻¹ 1 >= 1, (n,): by substitution where A is triangular after a permutation.

    Raises
    ------
    NotWellPosedError
        A has cycles and λ_pf(diag(L)|A|) < 1 fails.
    """
    system = model.astype(np.float64).system
    if system.plan.triangular:
        s: NDArray[np.float64] = system.plan.to_model(system.propagate(torch.ones(1, system.size).double()))[0].numpy()
        return s
    _ = system.contraction  # raises where the model is not well-posed
    return resolvent(dominating(system.A, system.slopes), 1.0, _SUM_TOL)


def rescale(model: ImplicitModel) -> ImplicitModel:
    """The same function of the inputs, with ‖diag(L)|A'|‖∞ = maxᵢ (sᵢ - 1)/sᵢ < 1.

    Raises
    ------
    InputError
        A group's activation is not positively homogeneous (ReLU, leaky ReLU, abs and identity are).
    NotWellPosedError
        As in :func:`scaling_vector`.
    """
    for group in model.groups:
        if not group.activation.homogeneous:
            raise InputError(
                f"rescaling needs positively homogeneous activations (relu, leaky_relu, abs, identity); group "
                f"{group.name!r} has {group.activation.name}"
            )
    s = scaling_vector(model)
    units = {name: s[columns] for name, columns in model.slices.items()}
    left = {name: 1.0 / unit for name, unit in units.items()} | {OUTPUT: None}
    right = units | {INPUT: None}
    return ImplicitModel(
        model.groups,
        {(row, column): block.scaled(left[row], right[column]) for (row, column), block in model.blocks.items()},
        n_inputs=model.n_inputs,
        n_outputs=model.n_outputs,
        state_bias=(model.state_bias / s).astype(model.dtype),
        output_bias=model.output_bias,
        input_shape=model.input_shape,
        output_shape=model.output_shape,
    )
