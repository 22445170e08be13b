"""The states that training matches, in the units of Theorem 2.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, StateGroup, rescale, scaling_vector
from simplicit.implicit.groups import first_block
from simplicit.network import States
from simplicit.rows.batch import Array, Index


@dataclass(frozen=True, eq=False)
class StateData:
    """Features [X U], (m, n + p), and targets [Z Ŷ], (m, n + q), of problem (7).

    ``model`` is the baseline whose states these are. They are ``rescaled`` where they are in the units s of Theorem
    2.4, in which ‖A‖∞ < 1, or ``chosen`` where they are some of the baseline's only, in units of their own. The
    trained model may have biases (``intercept``) if the baseline has; ``weight_count`` is N₀. Where outputs are
    ``wired`` they are states, or inputs, as they are, and [C D] has no weights to be fitted.
    """

    model: ImplicitModel
    features: Array
    targets: Array
    rescaled: bool
    intercept: bool
    weight_count: int
    chosen: bool = False
    wired: bool = False

    @property
    def n_states(self) -> int:
        return self.model.n_states

    @property
    def n_rows(self) -> int:
        return int(self.targets.shape[1])

    @property
    def n_columns(self) -> int:
        return int(self.features.shape[1])

    @property
    def layers(self) -> Mapping[str, slice]:
        """The rows of each group of states and of ``"output"``, in the order in which the baseline computes them."""
        outputs = {} if self.wired else {"output": slice(self.n_states, self.n_rows)}
        return {**dict([*self.model.slices.items()][::-1]), **outputs}

    @property
    def n_fitted(self) -> int:
        """How many rows of M are fitted: all, but for outputs that are wired."""
        return self.n_states if self.wired else self.n_rows

    @property
    def inputs(self) -> Array:
        """U, (m, p)."""
        return self.features[:, self.n_states :]

    def order(self, parts: Iterable[slice]) -> Index:
        """For each fitted row of M its place among the rows of some parts in turn, which are all of them."""
        return np.argsort(np.concatenate([np.arange(self.n_rows)[part] for part in parts]))

    def with_rows(self, parts: Sequence[tuple[slice, csr_array, Array]]) -> ImplicitModel:
        """The model with the coefficients (r, n + p) and constants (r,) of some parts of its rows, zero elsewhere.

        Outputs that are wired stay as they are.
        """
        n = self.n_states
        if self.wired:
            parts = [*parts, (slice(n, self.n_rows), csr_array(self.model.matrix[n:]), self.model.output_bias)]
        place, bias, first = np.full(self.n_rows, -1), np.zeros(self.n_rows), 0
        for part, _, constants in parts:
            place[part] = first + np.arange(len(constants))
            bias[part] = constants
            first += len(constants)
        nothing = csr_array((1, self.n_columns))
        rows = vstack([*(coefficients for _, coefficients, _ in parts), nothing], format="csr")
        return self.model.with_matrix(csr_array(rows[place]), state_bias=bias[:n], output_bias=bias[n:])


def check_elementwise(groups: Sequence[StateGroup]) -> None:
    """Refuse, with an InputError, groups of which one is a block: as many rows as states are matched."""
    if (block := first_block(groups)) is not None:
        raise InputError(
            f"this recipe matches the states of networks whose activations are all elementwise; group {block.name!r} "
            f"is a block ({block.activation.name}); take simplicit.Sparse, which fits layer by layer the "
            "weights that are not computed from others"
        )


def state_data(model: ImplicitModel, states: States, weight_count: int, *, rescaled: bool = True) -> StateData:
    """Gather the states of a baseline, ``rescaled`` if it is wanted and every activation allows it.

    Rescaling needs positively homogeneous activations; without it the ball ‖A‖∞ ≤ κ may not hold the baseline itself
    and matching costs accuracy. InputError is raised for a model with blocks.
    """
    check_elementwise(model.groups)
    model = model.astype(np.float64)
    rescaled = rescaled and homogeneous(model.groups)
    scale = scaling_vector(model) if rescaled and model.n_states else np.ones(model.n_states)
    return StateData(
        model=rescale(model) if rescaled and model.n_states else model,
        features=np.hstack([states.X / scale, states.U], dtype=np.float64),
        targets=np.hstack([states.Z / scale, states.Y], dtype=np.float64),
        rescaled=rescaled,
        intercept=bool(model.state_bias.any() or model.output_bias.any()),
        weight_count=weight_count,
    )


def homogeneous(groups: Iterable[StateGroup]) -> bool:
    """Whether every activation allows rescaling."""
    return all(group.activation.homogeneous for group in groups)
