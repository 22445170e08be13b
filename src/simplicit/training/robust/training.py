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

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.checks import as_count, as_interval, as_number, refused, spelled
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.progress import counted, phase
from simplicit.robustness import box_radii, pgd
from simplicit.rows.batch import Array, Index, Mask
from simplicit.solve import RunOptions
from simplicit.training.robust.layer import LayerFit, OneSidedLayer
from simplicit.training.states import StateData, check_triangular, structure_of
from simplicit.training.strength import check_sparsity, search_strength, tolerance_of
from simplicit.training.training import RowOptions

#: Turns of the one-sided problem from nothing, and from the round before.
_TURNS = (8, 4)
#: Steps of PGD that find a worst case.
_STEPS = 10
#: The box of inputs whose states' boxes weigh the columns, as a share of the range of inputs; of little influence.
_BOX = 8 / 255
#: Least column weight, relative to the mean.
_LEAST = 1e-3


def parse_strengths(text: str) -> float | tuple[float, ...]:
    """``"3"`` as a number, ``"1,3"`` as one for each layer."""
    try:
        strengths = tuple(map(float, text.split(",")))
    except ValueError:
        raise refused("hidden_strength", f"expected a number, or several with commas between, got {text!r}") from None
    return strengths[0] if len(strengths) == 1 else strengths


@dataclass(frozen=True)
class RobustOptions:
    """The options of the recipe :class:`simplicit.Robust`, which documents them; InputError for one out of range."""

    beta: float = 1.3e-3
    sparsity: float | None = None
    structure: str = "baseline"
    hidden_strength: float | tuple[float, ...] = field(default=1.0, metadata=spelled(parse_strengths))
    attacks: int = 1
    attack_eps: float = 3 / 255
    clip: tuple[float, float] | None = None
    lambda1: float = 1.0
    lambda2: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "lambda1", "lambda2"):
            as_number(name, getattr(self, name), positive=True)
        check_sparsity(self.sparsity)
        check_triangular("structure", self.structure)
        if isinstance(self.hidden_strength, list):
            object.__setattr__(self, "hidden_strength", tuple(self.hidden_strength))
        strengths = self.hidden_strength if isinstance(self.hidden_strength, tuple) else (self.hidden_strength,)
        for strength in strengths:
            as_number("hidden_strength", strength)
        low, high = self.input_range
        as_count("attacks", self.attacks, minimum=0)
        if as_number("attack_eps", self.attack_eps) > high - low:
            raise InputError(
                f"attack_eps must lie between 0 and the width of clip, {high - low:g}, got {self.attack_eps}",
                argument="attack_eps",
            )

    @property
    def input_range(self) -> tuple[float, float]:
        """The range of valid inputs."""
        return (0.0, 1.0) if self.clip is None else as_interval("clip", self.clip)


@dataclass(frozen=True, eq=False)
class RobustFit:
    """A network that was trained: its layers by name, the first one first, and the model that they make."""

    strength: float
    layers: Mapping[str, LayerFit]
    model: ImplicitModel


@dataclass(frozen=True, eq=False)
class RobustTraining:
    """Robust training on one baseline's states; :meth:`train` does it.

    InputError is raised where inputs are outside of their range, the network has no classes to keep apart, or there are
    not as many strengths as hidden layers.
    """

    data: StateData
    options: RobustOptions
    rows: RowOptions
    run: RunOptions

    def __post_init__(self) -> None:
        inputs, (low, high) = self.data.inputs, self.options.input_range
        smallest, largest = float(inputs.min()), float(inputs.max())
        if smallest < low or largest > high:
            raise refused(
                "inputs",
                f"values from {smallest:.6g} to {largest:.6g} lie outside of clip = ({low:g}, {high:g}), the range of "
                "valid inputs; normalisation belongs inside the network, or pass the range as clip",
            )
        if self.data.model.n_outputs < 2:
            raise refused(
                "net",
                "the network has a single output, so there are no classes to keep apart, as robust training does; take "
                "a network with one output per class, or another recipe",
            )
        strengths, after_the_first = self.options.hidden_strength, len(self.data.layers) - 1
        if isinstance(strengths, tuple) and len(strengths) != after_the_first:
            raise refused(
                "hidden_strength",
                f"{len(strengths)} strengths for {after_the_first} layers after the first; give one number, or one per "
                "layer",
            )

    def train(self) -> tuple[RobustFit, int]:
        """All rounds; what they come to, and how many times the layers were solved to find the strength.

        For a wanted sparsity the strength is searched in the first round and again in the last one.
        """
        target = self.options.sparsity
        points, found, strength, trials = [self.data.inputs], None, 1.0, 0
        for number in range(self.options.attacks + 1):
            last = number == self.options.attacks
            solve = partial(self._solve, points, last=last)
            with phase(f"round {number + 1} of {self.options.attacks + 1}"):
                if target is None or not (last or number == 0):
                    found = solve(strength, found)
                    trials = max(trials, 1)
                else:
                    found, more = self._searched(solve, strength, found, target)
                    strength, trials = found.strength, trials + more
                if not last:
                    points.append(self._worst_cases(found.model))
        assert found is not None
        return found, trials

    def _searched(
        self, solve: partial[RobustFit], strength: float, start: RobustFit | None, target: float
    ) -> tuple[RobustFit, int]:
        """The fit with the wanted sparsity; every trial has the same start, for what few turns reach depends on it."""
        count = self.data.weight_count
        return search_strength(
            lambda factor, _: solve(strength * factor, start),
            lambda fit: fit.model.sparsity(count),
            target,
            tolerance_of(count),
        )

    def _worst_cases(self, model: ImplicitModel) -> Array:
        """Points (m, p) near the samples at which the student errs most, by the classes of the baseline."""
        classes = self.data.targets[:, self.data.n_states :].argmax(axis=1)
        found: npt.NDArray[np.float32] = pgd(
            model.astype(np.float32),
            self.data.inputs.astype(np.float32),
            classes,
            self.options.attack_eps,
            steps=_STEPS,
            clip=self.options.input_range,
            random_start=False,
        )
        return found.astype(np.float64)

    def _solve(self, points: list[Array], strength: float, start: RobustFit | None, *, last: bool) -> RobustFit:
        """All layers on all points, each on the states of those before."""
        U = np.vstack(points)
        rows = self.rows if last else self.rows.coarser()
        layers: dict[str, LayerFit] = {}
        model = self._model(layers)
        for place, name in enumerate(counted(self.data.layers, "layers", len(self.data.layers))):
            with phase(f"in {name}"):
                layers[name] = self._layer(model, U, place, strength).solve(
                    _TURNS[0] if start is None else _TURNS[1],
                    None if start is None else start.layers[name],
                    rows,
                    self.run,
                )
            model = self._model(layers)
        return RobustFit(strength, layers, model)

    def _layer(self, model: ImplicitModel, U: Array, place: int, strength: float) -> OneSidedLayer:
        """The problem of a layer on the states of the model made so far."""
        n, (name, rows) = self.data.n_states, list(self.data.layers.items())[place]
        columns = self._columns[name]
        states, inputs = columns[columns < n], columns[columns >= n] - n
        features = U if len(inputs) == U.shape[1] else U[:, inputs]
        radii = np.ones(len(inputs))
        if len(states):
            features = np.hstack([equilibrium(model, U).states[:, states], features])
            given = self.options.hidden_strength
            strength_on_states = given[place - 1] if isinstance(given, tuple) else given
            radii = np.concatenate([strength_on_states * self._relative_radii(model, states), radii])
        targets = self.data.targets[:, rows]
        unit = float(np.sqrt(np.mean(targets**2))) or 1.0
        groups = self.data.model.groups[::-1]
        return OneSidedLayer(
            features,
            np.tile(targets, (len(U) // len(targets), 1)),
            self._structure[rows][:, columns],
            prices=strength * self.options.beta * unit * radii,
            weight=self.options.lambda1 if place < len(groups) else self.options.lambda2,
            onesided=place < len(groups) and groups[place].activation.name == "relu",
        )

    def _relative_radii(self, model: ImplicitModel, states: Index) -> Array:
        """The mean half-widths of some states' boxes, relative to the mean of all of these."""
        low, high = self.options.input_range
        radii = box_radii(model, self.data.inputs, _BOX * (high - low), clip=self.options.input_range)
        box = radii[:, states].mean(axis=0)
        return np.asarray(np.maximum(box / max(box.mean(), np.finfo(float).tiny), _LEAST))

    @cached_property
    def _structure(self) -> Mask:
        return structure_of(self.options.structure).admissible(self.data.model)

    @cached_property
    def _columns(self) -> Mapping[str, Index]:
        """Admissible columns of each layer."""
        return {name: np.flatnonzero(self._structure[at].any(axis=0)) for name, at in self.data.layers.items()}

    def _model(self, layers: Mapping[str, LayerFit]) -> ImplicitModel:
        """The model of the layers solved so far."""
        parts = []
        for name, layer in layers.items():
            found = layer.solution.coefficients
            shape = found.shape[0], self.data.n_columns
            coefficients = csr_array((found.data, self._columns[name][found.indices], found.indptr), shape=shape)
            parts.append((self.data.layers[name], coefficients, layer.intercepts))
        return self.data.with_rows(parts)
