r"""The robust mode of :func:`simplicit.fit`: layers that move little over a box of inputs, matched where it counts.

Layer after layer, on the student's own states, every row solves a one-sided ℓ1 problem
(:mod:`simplicit.training.robust.onesided`). Three things make the result robust:

- **The penalty is a worst case.** Over the box |u' − u| ≤ ε a row of B moves by at most ε‖w‖₁, a row on states by
  Σⱼ rⱼ|wⱼ|, rⱼ the half-width of the box of state j (:func:`simplicit.box_radii`): these are the column weights of ℓ1,
  input columns in input units, state columns by their mean radius over samples.
- **One side.** A ReLU that is off in the baseline needs to stay off and no more.
- **Worst cases of the student.** PGD against the student itself, with the classes that the *baseline* gives as labels;
  the points join the samples, with the clean states as their targets, and the layers are solved again. All points of
  all rounds stay, so that the student is drawn to the clean states on ever more of the box.

No labels are used, and no weight is trained by back-propagation: gradients are those of the inputs, in PGD. States are
in their own units here, not in those of Theorem 2.4: a whole layer then has one unit, which measured two points better.
The model is rescaled at its end. Every row has a constant, also where the baseline has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.robustness import box_radii, pgd
from simplicit.rows import L1
from simplicit.solve.run import RunOptions
from simplicit.training.options import FitOptions
from simplicit.training.robust.onesided import Layer, LayerFit
from simplicit.training.states.matching import Match
from simplicit.training.states.statedata import StateData
from simplicit.training.states.structure import STRUCTURES, Mask
from simplicit.training.strength import search_strength

__all__ = ["RobustMatch", "RobustMatching"]

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


@dataclass(frozen=True, eq=False)
class RobustMatch(Match):
    """A match with its layers, the first one first."""

    layers: tuple[LayerFit, ...] = ()


@dataclass(frozen=True, eq=False)
class RobustMatching:
    """Robust training on one baseline's states; :meth:`train` does it.

    Raises
    ------
    InputError
        Inputs outside of their range, or a network without classes to keep apart.
    """

    data: StateData
    options: FitOptions
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        inputs, (low, high) = self.data.inputs, self.options.clip
        smallest, largest = float(inputs.min()), float(inputs.max())
        if smallest < low or largest > high:
            raise InputError(
                f"inputs: values from {smallest:.6g} to {largest:.6g} lie outside of clip = ({low:g}, {high:g}), the "
                "range of valid inputs; normalisation belongs inside the network, or pass the range as clip"
            )
        if self.data.model.n_outputs < 2:
            raise InputError(
                "robust: the network has a single output, so there are no classes to keep apart; use a network with "
                "one output per class, or robust=False"
            )
        later = self.options.later
        if isinstance(later, tuple) and len(later) != len(self._rows) - 1:
            raise InputError(
                f"later: {len(later)} strengths for {len(self._rows) - 1} layers after the first; give one number, or "
                "one per layer"
            )

    def train(self, target: float | None, tolerance: float) -> tuple[RobustMatch, int]:
        """All rounds; the match, and how many times the layers were solved to find the strength.

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
        solve: partial[RobustMatch],
        strength: float,
        start: RobustMatch | None,
        target: float,
        tolerance: float,
    ) -> tuple[RobustMatch, int]:
        trials = 0

        def trial(factor: float, _: Match | None) -> Match:
            nonlocal trials
            trials += 1
            # From the same start each time: the turns are few, so that what they reach depends on it.
            return solve(strength * factor, start)

        found = search_strength(trial, lambda match: match.model.sparsity(self.data.weight_count), target, tolerance)
        assert isinstance(found, RobustMatch)
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
            clip=self.options.clip,
            random_start=False,
        )
        return found.astype(np.float64)

    def _solve(
        self, points: list[Array], number: int, strength: float, start: RobustMatch | None, *, last: bool
    ) -> RobustMatch:
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
                    self.options.tol if last else max(self.options.tol, _COARSE),
                    None if start is None else start.layers[place],
                    throw=last and self.options.throw,
                    block_rows=self.options.block_rows,
                    **self.run.staged(f"round {number}, {name}").arguments,
                )
            )
            model = self._model(layers)
        order = np.argsort(np.concatenate([np.arange(self.data.n_rows)[rows] for rows in self._rows]))
        solutions = tuple(layer.solution for layer in layers)
        return RobustMatch(strength=strength, solutions=solutions, order=order, model=model, layers=tuple(layers))

    def _layer(self, model: ImplicitModel, U: Array, place: int, strength: float) -> Layer:
        """The problem of a layer on the states of the model made so far."""
        n, rows, columns = self.data.n_states, self._rows[place], self._columns[place]
        states, inputs = columns[columns < n], columns[columns >= n] - n
        features = U if len(inputs) == U.shape[1] else U[:, inputs]
        radii = np.ones(len(inputs))
        if len(states):
            features = np.hstack([equilibrium(model, U).states[:, states], features])
            low, high = self.options.clip
            box = box_radii(model, self.data.inputs, _BOX * (high - low), clip=self.options.clip)[:, states].mean(
                axis=0
            )
            relative = np.maximum(box / max(box.mean(), np.finfo(float).tiny), _LEAST)
            radii = np.concatenate([self._later(place) * relative, radii])
        targets = self.data.targets[:, rows]
        assert isinstance(self.options.penalty, L1)
        unit = float(np.sqrt(np.mean(targets**2))) or 1.0
        groups = self.data.model.groups[::-1]
        return Layer(
            features,
            np.tile(targets, (len(U) // len(targets), 1)),
            self._structure[rows][:, columns],
            prices=strength * float(self.options.penalty.beta) * unit * radii,
            weight=self.options.lambda1 if place < len(groups) else self.options.lambda2,
            onesided=place < len(groups) and groups[place].activation.name == "relu",
        )

    def _later(self, place: int) -> float:
        """The strength on state columns of a layer, relative to that on inputs."""
        later = self.options.later
        return later[place - 1] if isinstance(later, tuple) else later

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
