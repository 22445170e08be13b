r"""Every state of a model as a row: problem (7) with its structures and its ball.

    min over M   f(M) + λ₁‖Z − XAᵀ − UBᵀ‖² + λ₂‖Ŷ − XCᵀ − UDᵀ‖²   s.t.  ‖A‖∞ ≤ κ,  M zero off its structure

M is filled stage by stage (:mod:`~simplicit.training.states.stages`); a stage is some rows, on some states. Where a
network ends in an activation its outputs are states as they are: with the structure of the baseline [C D] is kept, and
what is matched is the last pre-activation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import nn

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, equilibrium, perron_frobenius, rescale
from simplicit.implicit.batch import Batch
from simplicit.implicit.wellposed import row_norm
from simplicit.network import Capture, NetworkTemplate
from simplicit.rows import Ball, Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.problem import Rows, Samples
from simplicit.training.provider import Fit, relative_error, squared_error
from simplicit.training.states.chosen import chosen_data
from simplicit.training.states.data import StateData, homogeneous, state_data
from simplicit.training.states.sensitivity import state_sensitivities
from simplicit.training.states.stages import Stage, features_on, stages_of
from simplicit.training.states.structure import structure_of
from simplicit.training.support.pattern import Pattern, PatternFigures
from simplicit.training.units import Scales


@dataclass(frozen=True, eq=False)
class StateStudent:
    """A model with new M, ``fitted`` in the units of the data; see ``Student``.

    ``origin`` goes from a model in these units to the network that it came from, with its weights.
    """

    fitted: ImplicitModel
    data: StateData
    order: Index
    origin: Callable[[ImplicitModel], nn.Module]

    def __repr__(self) -> str:
        return f"StateStudent({self.fitted!r})"

    @cached_property
    def model(self) -> ImplicitModel:
        """In the units of Theorem 2.4 where there are such: the baseline's own, or, if the data are not in these, those
        of the model."""
        given = self.data.rescaled or self.data.chosen or not homogeneous(self.fitted.groups)
        return self.fitted if given else rescale(self.fitted)

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """None: a pattern is one of weights, not of states."""
        return {}

    def in_pattern(self) -> list[PatternFigures]:
        return []

    def network(self) -> nn.Module:
        """A new copy of the network; InputError where it has no parameters of its own for the model."""
        return self.origin(self.fitted)

    @cached_property
    def errors(self) -> Mapping[str, float]:
        model, data = self.fitted, self.data
        X = equilibrium(model, data.inputs).states if model.n_states else np.zeros((len(data.inputs), 0))
        Z = X @ model.A.T + data.inputs @ model.B.T + model.state_bias
        Y = X @ model.C.T + data.inputs @ model.D.T + model.output_bias
        found = np.hstack([Z, Y])
        return {
            name: relative_error([squared_error(found[:, at], data.targets[:, at])]) for name, at in data.layers.items()
        }

    @property
    def weights(self) -> Mapping[str, int]:
        counts = np.diff(self.data.model.matrix.indptr)
        return {name: int(counts[at].sum()) for name, at in self.data.layers.items()}

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        labels = np.empty(self.data.n_fitted, dtype=object)
        for name, at in self.data.layers.items():
            labels[at] = name
        return labels.astype(str)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Density of M in per cent, ‖A‖∞, λ_pf(diag(L)|A|) with bounds, and whether states are rescaled."""
        model, pf = self.model, perron_frobenius(self.model)
        return {
            "density_of_M": 100.0 * model.nnz / model.size,
            "row_norm": row_norm(model),
            "perron_frobenius": {"value": pf.value, "lower": pf.lower, "upper": pf.upper},
            "rescaled": self.data.rescaled,
        }


def network_of(captured: Capture, data: StateData, *, structure: str) -> Callable[[ImplicitModel], nn.Module]:
    """From a model in the units of ``data`` to the captured network with its weights."""
    template = NetworkTemplate(captured, captured.model.astype(np.float64) if data.rescaled else None)

    def network(model: ImplicitModel) -> nn.Module:
        if structure != "baseline":
            raise InputError(
                f"network: structure {structure!r} has weights where the network has none; fit with "
                "structure='baseline', or use simplicit.to_torch(result.model)"
            )
        return template.network(model)

    return network


@dataclass(frozen=True, eq=False)
class StateProvider:
    """Problem (7) for one baseline and one set of samples; see ``Provider``.

    ``structure`` (n + q, n + p) says which coefficients of M are admissible, ``layers`` what is solved in order, which
    is all rows of M, and ``kappa`` bounds ‖A‖∞ where it is a number. ``origin`` is that of :class:`StateStudent`.
    """

    data: StateData
    structure: Mask
    layers: tuple[Stage, ...]
    kappa: float | None
    origin: Callable[[ImplicitModel], nn.Module]

    @classmethod
    def of(
        cls,
        captured: Capture,
        inputs: Batch,
        *,
        structure: str = "baseline",
        states: str | tuple[str, ...] = "all",
        kappa: float | None = None,
        lambda1: float = 0.1,
        lambda2: float = 0.1,
        propagate: bool = False,
        regenerate: bool = True,
    ) -> Self:
        """The states of a network on samples (m, *input_shape); options as of :class:`simplicit.Matching`.

        InputError is raised where inputs do not fit, a group of states is unknown, or there is not enough memory.
        """
        if states == "all":
            data = state_data(captured.model, captured.states(inputs), captured.weight_count)
            if structure == "baseline" and data.n_states:
                data = replace(data, wired=captured.output_is_wired)
        else:
            data = chosen_data(captured, inputs, states, bounded=kappa is not None)
        stages = stages_of(
            data, lambda1=lambda1, lambda2=lambda2, propagate=propagate, regenerate=regenerate, by_group=states != "all"
        )
        origin = network_of(captured, data, structure=structure)
        return cls(data, structure_of(structure).admissible(data.model), stages, kappa, origin)

    @property
    def weight_count(self) -> int:
        return self.data.weight_count

    @property
    def efforts(self) -> list[float]:
        return [float(self.structure[stage.at].sum()) for stage in self.layers]

    @property
    def patterned(self) -> Collection[str]:
        return ()

    @property
    def samples(self) -> Array:
        return self.data.inputs

    @property
    def shape(self) -> tuple[int, int]:
        """(n + q, n + p)."""
        return self.data.n_rows, self.data.n_columns

    @cached_property
    def _sensitivities(self) -> Array:
        return state_sensitivities(self.data)

    def sensitivities(self, layer: Stage) -> Array:
        return self._sensitivities[layer.at]

    def on_baseline(self) -> Iterator[tuple[Stage, Sequence[Rows]]]:
        for stage in self.layers:
            yield stage, [self._rows(stage, self.data.features)]

    def sweep(self, fit: Fit[Stage]) -> StateStudent:
        solutions: list[Solution] = []
        for stage in self.layers:
            model = self._model(solutions) if stage.propagated and solutions else None
            solutions += fit(stage, [self._rows(stage, features_on(self.data, model))])
        order = self.data.order(stage.at for stage in self.layers)
        return StateStudent(self._model(solutions), self.data, order, self.origin)

    @cached_property
    def _scales(self) -> Scales:
        """Of all rows and columns, on the baseline's states."""
        data, targets = self.data, np.ones(self.data.n_rows)
        for at in data.layers.values():
            targets[at] = np.sqrt(np.mean(np.square(data.targets[:, at])))
        columns = np.sqrt(np.einsum("ij,ij->j", data.features, data.features) / len(data.features))
        return Scales(targets, columns, np.arange(data.n_columns) >= data.n_states)

    def _rows(self, stage: Stage, features: Array) -> Rows:
        data, places, scales = self.data, np.arange(self.data.n_rows)[stage.at], self._scales
        return Rows(
            data=Samples(features, data.targets[:, stage.at], data.intercept),
            weight=stage.weight,
            support=self.structure[stage.at],
            weights=data.model.matrix[places].toarray() * self.structure[stage.at],
            scales=Scales(scales.targets[stage.at], scales.columns, scales.inputs),
            pieces=lambda penalty: penalty.pieces(*self.shape).select(places),
            ball=Ball(self.kappa, slice(0, data.n_states)) if stage.bounded and self.kappa else None,
            settled=features is data.features,
        )

    def _model(self, solutions: Sequence[Solution]) -> ImplicitModel:
        """The model of the stages solved so far."""
        solved = zip(self.layers, solutions, strict=False)
        return self.data.with_rows([(stage.at, one.coefficients, one.intercepts) for stage, one in solved])
