"""Which coefficients of M = [[A, B], [C, D]] a trained model may have, from loosest to tightest.

A full A can cheat: X contains the answer (xᵢ = zᵢ where it is positive), so that rows lean on their own diagonal. The
tighter structures take that away; strictly triangular ones are also well-posed by construction and need no iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simplicit.checks import check_choice, refused
from simplicit.implicit import ImplicitModel
from simplicit.rows.batch import Mask


@dataclass(frozen=True)
class Structure:
    """A rule for the admissible coefficients.

    ``admissible`` goes from the baseline's model to a boolean mask of the shape of M, (n + q, n + p). A ``triangular``
    structure is one in which A is strictly triangular after a permutation, whatever the coefficients.
    """

    admissible: Callable[[ImplicitModel], Mask]
    triangular: bool


def _dense(model: ImplicitModel) -> Mask:
    """Everything: the paper's choice."""
    n, p, q = model.n_states, model.n_inputs, model.n_outputs
    return np.ones((n + q, n + p), dtype=bool)


def _no_self(model: ImplicitModel) -> Mask:
    """Everything but the diagonal of A."""
    mask = _dense(model)
    np.fill_diagonal(mask[: model.n_states, : model.n_states], val=False)
    return mask


def _feedforward(model: ImplicitModel) -> Mask:
    """A state may use the input and the states of groups before its own in the baseline, which stand after it in x."""
    mask = _dense(model)
    for rows in model.slices.values():
        mask[rows, : rows.stop] = False
    return mask


def _baseline(model: ImplicitModel) -> Mask:
    """Only where the baseline has a weight."""
    return np.asarray(model.matrix.astype(bool).toarray())


#: The structures by name.
STRUCTURES: dict[str, Structure] = {
    "baseline": Structure(_baseline, triangular=True),
    "feedforward": Structure(_feedforward, triangular=True),
    "no-self": Structure(_no_self, triangular=False),
    "dense": Structure(_dense, triangular=False),
}


def structure_of(name: str) -> Structure:
    """The structure of that name; InputError if it is unknown."""
    check_choice("structure", name, STRUCTURES)
    return STRUCTURES[name]


def check_triangular(argument: str, structure: str) -> None:
    """Refuse an argument that needs layers, one after the other, with a structure that has no such order."""
    if not structure_of(structure).triangular:
        raise refused(
            argument,
            f"the structure {structure!r} has no order of layers, each on the states of those before; take 'baseline' "
            "or 'feedforward'",
        )


#: κ of a ball that nobody has chosen, as in the paper.
KAPPA = 0.99


def ball_of(structure: str, kappa: float | None, model: ImplicitModel) -> float | None:
    """κ of the ball ‖A‖∞ ≤ κ, or None for no ball: the one given, or what the structure needs.

    A row of diag(L)|A| sums to at most Lκ, so that Lκ < 1 proves λ_pf < 1. A strictly triangular structure is
    well-posed whatever κ is. InputError is raised where κ cannot keep the result well-posed.
    """
    if structure_of(structure).triangular:
        return kappa
    slope = max((group.activation.slope for group in model.groups), default=1.0)
    chosen, limit = KAPPA / slope if kappa is None else kappa, 1 / slope
    if chosen >= limit:
        raise refused(
            "kappa",
            f"structure {structure!r} needs 0 < kappa < {limit:.4g} to be well-posed (the steepest activation has "
            f"slope {slope:.4g}), got {kappa}; lower it, or take structure='feedforward' or 'baseline', which are "
            "well-posed for every kappa",
        )
    return chosen
