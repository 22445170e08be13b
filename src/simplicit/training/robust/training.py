r"""Robust training: layers that move little over a box of inputs, matched where it counts.

Layer after layer, on the student's own states, every row solves a one-sided ℓ1 problem
(:mod:`~simplicit.training.robust.layer`). Three things make the result robust:

- **The penalty is a worst case.** Over the box |u' − u| ≤ ε a row of B moves by at most ε‖w‖₁, a row on states by
  Σⱼ rⱼ|wⱼ|, rⱼ the half-width of the box of state j (:func:`simplicit.robustness.box_radii`): these are the column
  weights of ℓ1, input columns in input units, state columns by their mean radius over samples.
- **One side.** A ReLU that is off in the baseline needs to stay off and no more.
- **Worst cases of the student.** PGD against the student itself, with the classes that the *baseline* gives as labels;
  the points join the samples, with the clean states as their targets, and the layers are solved again. All points of
  all rounds stay, so that the student is drawn to the clean states on ever more of the box.

No labels are used, and no weight is trained by back-propagation: gradients are those of the inputs, in PGD. States are
in their own units here, not in those of Theorem 2.4: a whole layer then has one unit, which measured two points better.
The model is rescaled at its end. Every row has a constant, also where the baseline has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.robustness import box_radii, pgd
from simplicit.solve import RunOptions
from simplicit.training.robust.layer import Layer, LayerFit
from simplicit.training.states import StateData
from simplicit.training.states.structure import STRUCTURES, Mask
from simplicit.training.strength import search_strength
from simplicit.training.training import RowOptions

__all__ = ["RobustFit", "RobustOptions", "RobustTraining"]

Array = npt.NDArray[np.float64]

#: Turns of the one-sided problem from nothing, and from the round before.
_TURNS = (8, 4)
#: Steps of PGD that find a worst case.
_STEPS = 10
#: The box of inputs whose states' boxes weigh the columns, as a share of the range of inputs; of little influence.
_BOX = 8 / 255
#: Least column weight, relative to the mean.
_LEAST = 1e-3
#: Relative gap of all rounds but the last.
_COARSE = 1e-4


class RobustOptions(Protocol):
    """What decides robust training; see :class:`simplicit.Robust`."""

    @property
    def beta(self) -> float: ...

    @property
    def structure(self) -> str: ...

    @property
    def hidden_strength(self) -> float | tuple[float, ...]: ...

    @property
    def attacks(self) -> int: ...

    @property
    def attack_eps(self) -> float: ...

    @property
    def range(self) -> tuple[float, float]: ...

    @property
    def lambda1(self) -> float: ...

    @property
    def lambda2(self) -> float: ...


@dataclass(frozen=True, eq=False)
class RobustFit:
    """A network that was trained: its layers, the first one first, and the model that they make."""

    strength: float
    layers: tuple[LayerFit, ...]
    model: ImplicitModel


@dataclass(frozen=True, eq=False)
class RobustTraining:
    """Robust training on one baseline's states; :meth:`train` does it.

    Raises
    ------
    InputError
        Inputs are outside of their range, or the network has no classes to keep apart.
    """

    data: StateData
    options: RobustOptions
    rows: RowOptions
    run: RunOptions

    def __post_init__(self) -> None:
        inputs, (low, high) = self.data.inputs, self.options.range
        smallest, largest = float(inputs.min()), float(inputs.max())
        if smallest < low or largest > high:
            raise InputError(
                f"inputs: values from {smallest:.6g} to {largest:.6g} lie outside of clip = ({low:g}, {high:g}), the "
                "range of valid inputs; normalisation belongs inside the network, or pass the range as clip"
            )
        if self.data.model.n_outputs < 2:
            raise InputError(
                "net: the network has a single output, so there are no classes to keep apart, as robust training does; "
                "take a network with one output per class, or another recipe"
            )
        strengths = self.options.hidden_strength
        if isinstance(strengths, tuple) and len(strengths) != len(self._rows) - 1:
            raise InputError(
                f"hidden_strength: {len(strengths)} strengths for {len(self._rows) - 1} layers after the first; give "
                "one number, or one per layer",
                argument="hidden_strength",
            )

    def train(self, target: float | None, tolerance: float) -> tuple[RobustFit, int]:
        """All rounds; what they come to, and how many times the layers were solved to find the strength.

        Parameters
        ----------
        target : float or None
            Wanted sparsity, in per cent: the strength is searched in the first round and again in the last one.
        tolerance : float
            How near the search comes.
        """
        points, found, strength, trials = [self.data.inputs], None, 1.0, 0
        for number in range(self.options.attacks + 1):
            last = number == self.options.attacks
            solve = partial(self._solve, points, number, last=last)
            if target is None or not (last or number == 0):
                found = solve(strength, found)
                trials = max(trials, 1)
            else:
                found, more = self._searched(solve, strength, found, target, tolerance)
                strength, trials = found.strength, trials + more
            if not last:
                points.append(self._worst_cases(found.model))
        assert found is not None
        return found, trials

    def _searched(
        self,
        solve: partial[RobustFit],
        strength: float,
        start: RobustFit | None,
        target: float,
        tolerance: float,
    ) -> tuple[RobustFit, int]:
        trials = 0

        def trial(factor: float, _: RobustFit | None) -> RobustFit:
            nonlocal trials
            trials += 1
            # From the same start each time: the turns are few, so that what they reach depends on it.
            return solve(strength * factor, start)

        found = search_strength(trial, lambda fit: fit.model.sparsity(self.data.weight_count), target, tolerance)
        return found, trials

    def _worst_cases(self, model: ImplicitModel) -> Array:
        """Points (m, p) near the samples at which the student errs most, by the classes of the baseline."""
        classes = self.data.targets[:, self.data.n_states :].argmax(axis=1)
        found: npt.NDArray[np.float32] = pgd(
            model.astype(np.float32),
            self.data.inputs.astype(np.float32),
            classes,
            self.options.attack_eps,
            steps=_STEPS,
            clip=self.options.range,
            random_start=False,
        )
        return found.astype(np.float64)

    def _solve(
        self, points: list[Array], number: int, strength: float, start: RobustFit | None, *, last: bool
    ) -> RobustFit:
        """All layers on all points, each on the states of those before."""
        U = np.vstack(points)
        layers: list[LayerFit] = []
        model = self._model([])
        for place, rows in enumerate(self._rows):
            layer = self._layer(model, U, place, strength)
            name = [*self.data.model.slices][::-1][place] if rows.start < self.data.n_states else "output"
            layers.append(
                layer.solve(
                    _TURNS[0] if start is None else _TURNS[1],
                    None if start is None else start.layers[place],
                    tol=self.rows.tol if last else max(self.rows.tol, _COARSE),
                    throw=last and self.rows.throw,
                    **self.rows.arguments(self.run, f"round {number}, {name}"),
                )
            )
            model = self._model(layers)
        return RobustFit(strength, tuple(layers), model)

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """For each row of M, its place among the rows of the layers in turn."""
        return np.argsort(np.concatenate([np.arange(self.data.n_rows)[rows] for rows in self._rows]))

    def _layer(self, model: ImplicitModel, U: Array, place: int, strength: float) -> Layer:
        """The problem of a layer on the states of the model made so far."""
        n, rows, columns = self.data.n_states, self._rows[place], self._columns[place]
        states, inputs = columns[columns < n], columns[columns >= n] - n
        features = U if len(inputs) == U.shape[1] else U[:, inputs]
        radii = np.ones(len(inputs))
        if len(states):
            features = np.hstack([equilibrium(model, U).states[:, states], features])
            low, high = self.options.range
            box = box_radii(model, self.data.inputs, _BOX * (high - low), clip=self.options.range)[:, states].mean(
                axis=0
            )
            relative = np.maximum(box / max(box.mean(), np.finfo(float).tiny), _LEAST)
            radii = np.concatenate([self._hidden_strength(place) * relative, radii])
        targets = self.data.targets[:, rows]
        unit = float(np.sqrt(np.mean(targets**2))) or 1.0
        groups = self.data.model.groups[::-1]
        return Layer(
            features,
            np.tile(targets, (len(U) // len(targets), 1)),
            self._structure[rows][:, columns],
            prices=strength * self.options.beta * unit * radii,
            weight=self.options.lambda1 if place < len(groups) else self.options.lambda2,
            onesided=place < len(groups) and groups[place].activation.name == "relu",
        )

    def _hidden_strength(self, place: int) -> float:
        """The strength on state columns of a layer, relative to that on inputs."""
        strengths = self.options.hidden_strength
        return strengths[place - 1] if isinstance(strengths, tuple) else strengths

    @cached_property
    def _structure(self) -> Mask:
        return STRUCTURES[self.options.structure].admissible(self.data.model)

    @cached_property
    def _rows(self) -> list[slice]:
        """Rows of M of each layer, as the network computes them; the outputs last."""
        return [*[*self.data.model.slices.values()][::-1], slice(self.data.n_states, self.data.n_rows)]

    @cached_property
    def _columns(self) -> list[npt.NDArray[np.intp]]:
        """Admissible columns of each layer."""
        return [np.flatnonzero(self._structure[rows].any(axis=0)) for rows in self._rows]

    def _model(self, layers: list[LayerFit]) -> ImplicitModel:
        """The model of the layers solved so far; the other rows are zero."""
        n, bias, parts = self.data.n_states, np.zeros(self.data.n_rows), list[csr_array]()
        order = [np.arange(self.data.n_rows)[rows] for rows in self._rows]
        for place, rows in enumerate(self._rows):
            shape = (len(order[place]), self.data.n_columns)
            if place >= len(layers):
                parts.append(csr_array(shape))
                continue
            found = layers[place].solution.coefficients
            parts.append(csr_array((found.data, self._columns[place][found.indices], found.indptr), shape=shape))
            bias[rows] = layers[place].intercepts
        M = csr_array(vstack(parts, format="csr")[np.argsort(np.concatenate(order))])
        return self.data.model.with_matrix(M, state_bias=bias[:n], output_bias=bias[n:])
