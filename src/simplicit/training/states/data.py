"""The states that training matches, in the units of Theorem 2.4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simplicit.implicit import ImplicitModel, rescale, scaling_vector
from simplicit.network import States

__all__ = ["StateData", "state_data"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StateData:
    """Features [X U] and targets [Z Ŷ] of problem (7).

    Attributes
    ----------
    model : ImplicitModel
        The baseline whose states these are, rescaled if ``rescaled``.
    features : (m, n + p) array
        [X U].
    targets : (m, n + q) array
        [Z Ŷ].
    rescaled : bool
        Whether states are in the units s of Theorem 2.4, in which ‖A‖∞ < 1.
    intercept : bool
        Whether the baseline has biases, so that the trained model may have them.
    weight_count : int
        N₀, the number of weights of the baseline.
    chosen : bool
        Whether these are some of the baseline's states only, in units of their own.
    """

    model: ImplicitModel
    features: Array
    targets: Array
    rescaled: bool
    intercept: bool
    weight_count: int
    chosen: bool = False

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
        return {**dict([*self.model.slices.items()][::-1]), "output": slice(self.n_states, self.n_rows)}

    @property
    def homogeneous(self) -> bool:
        """Whether every activation allows rescaling."""
        return _homogeneous(self.model)

    @property
    def inputs(self) -> Array:
        """U, (m, p)."""
        return self.features[:, self.n_states :]


def state_data(model: ImplicitModel, states: States, weight_count: int, *, rescaled: bool = True) -> StateData:
    """Gather the states of a baseline, ``rescaled`` if it is wanted and every activation allows it.

    Rescaling needs positively homogeneous activations; without it the ball ‖A‖∞ ≤ κ may not hold the baseline itself
    and matching costs accuracy.
    """
    model = model.astype(np.float64)
    rescaled = rescaled and _homogeneous(model)
    scale = scaling_vector(model) if rescaled and model.n_states else np.ones(model.n_states)
    return StateData(
        model=rescale(model) if rescaled and model.n_states else model,
        features=np.hstack([states.X / scale, states.U], dtype=np.float64),
        targets=np.hstack([states.Z / scale, states.Y], dtype=np.float64),
        rescaled=rescaled,
        intercept=bool(model.state_bias.any() or model.output_bias.any()),
        weight_count=weight_count,
    )


def _homogeneous(model: ImplicitModel) -> bool:
    return all(group.activation.homogeneous for group in model.groups)
