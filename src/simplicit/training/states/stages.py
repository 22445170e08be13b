r"""In which order the rows of M are solved, and on which states.

Problem (7) matches all rows on the baseline's states at once. But the states that a layer will meet are those of the
model made so far, with all its errors. With ``propagate`` the layers of a feed-forward model are solved in the order in
which they are evaluated, each on the states of the layers already made, against the *baseline's* pre-activations:

    min over rows of layer l    ‖Z_l − X̂ A_lᵀ − U B_lᵀ‖² + …        X̂ = the states of the model made so far

so that every layer corrects what those before it got wrong. Without it, ``regenerate`` does so for [C D] alone. The
groups of chosen states, of which there may be many, are solved one after the other too, to need less memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.rows.batch import Array
from simplicit.training.states.data import StateData


@dataclass(frozen=True)
class Stage:
    """Some rows of M = [[A, B], [C, D]] that are solved together: those ``at`` a slice of the n + q.

    ``weight`` is λ₁ or λ₂. Rows that are ``bounded`` may be under the ball ‖A‖∞ ≤ κ. Where they are
    ``propagated``, the features are the states of the model made by the stages before, not those of the baseline.
    """

    name: str
    at: slice
    weight: float
    bounded: bool
    propagated: bool

    @property
    def rows(self) -> int:
        return int(self.at.stop - self.at.start)


def stages_of(
    data: StateData, *, lambda1: float, lambda2: float, propagate: bool, regenerate: bool, by_group: bool
) -> tuple[Stage, ...]:
    """What is solved, in order; together all rows of M that are fitted.

    λ is ``lambda1`` of state and ``lambda2`` of output rows. Every group of states is fitted on the states of the model
    made so far with ``propagate``, the outputs also with ``regenerate``. Groups are solved one after the other with
    ``by_group`` too.
    """
    n, total = data.n_states, data.n_rows
    outputs: tuple[Stage, ...] = ()
    if not data.wired:
        outputs = (Stage("output rows", slice(n, total), lambda2, bounded=False, propagated=regenerate or propagate),)
    if not n:
        return outputs
    if not (propagate or by_group):
        return Stage("state rows", slice(0, n), lambda1, bounded=True, propagated=False), *outputs
    # The first layer stands last in x.
    layers = [
        Stage(f"state rows of {name}", at, lambda1, bounded=True, propagated=propagate)
        for name, at in [*data.model.slices.items()][::-1]
    ]
    return *layers, *outputs


def features_on(data: StateData, model: ImplicitModel | None) -> Array:
    """[X U] with the states of a model, (m, n + p); the baseline's if there is none yet.

    In a triangular model the states that a layer may use depend on no row that is still missing.
    """
    if model is None or not model.n_states:
        return data.features
    return np.hstack([equilibrium(model, data.inputs).states, data.inputs])
