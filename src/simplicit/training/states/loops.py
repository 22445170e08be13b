r"""The rows of a cell at rest: problem (7) on its own equilibria, in a ball in which the result is proved well-posed.

A cell x = cell(x, u) is fitted on the states X* that it comes to rest at: one row problem for every pre-activation,

    min over w    λ‖z − w·[X*/s  U]‖² + h(w)     s.t.  Σ over the states j of the row's own loop of |wⱼ| ≤ κ sᵢ/Lᵢ

with w = (A_ij sⱼ | B_i), so that what comes out has L|A| s ≤ κ s on every loop: λ_pf ≤ κ < 1, whatever the rows are
(:mod:`simplicit.implicit.blockwise`; a block's states share one s). A product of states, known by G in a box
(:mod:`simplicit.implicit.domains`), has G t ≤ κ s for the balls t of its rows, which share it as the baseline's weights
do; what comes out has boxes of its own, in which it has to be proved anew. s is the vector that proves the baseline
where one does, so that the baseline itself lies in the ball if κ lets it, and follows its Perron vector otherwise. Rows
that lie on no loop have no ball.

Rows that share weights, of a convolution or of a layer on tokens, are one problem over all their positions
(:mod:`simplicit.training.states.ties`).

*Wiring* stays: entries of M that are no weights (x_s = … + 1·x_g, an input that is added as it is, a mean) stay what
they are; what they give is taken off the targets, and off κ. Without a readout y is the state, and no rows of [C D] are
fitted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.implicit import ImplicitModel, LinearMap, equilibrium, perron_frobenius
from simplicit.implicit.equilibrium import pull_back
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.implicit.plan import plan_by_groups
from simplicit.implicit.wellposed import row_norm
from simplicit.network.cells import CellCapture
from simplicit.rows import Ball, Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.channels import has_tied_rows
from simplicit.training.problem import Rows, Samples
from simplicit.training.provider import Fit, relative_error, squared_error
from simplicit.training.states.equilibria import LoopData, with_room
from simplicit.training.states.patterns import entries_of, groups_in
from simplicit.training.states.sensitivity import PROBES, SAMPLES
from simplicit.training.states.structure import KAPPA
from simplicit.training.states.ties import Tie, in_loop
from simplicit.training.support.allocation import least_sensitivity
from simplicit.training.support.pattern import Groups, Pattern, PatternFigures
from simplicit.training.units import Scales


@dataclass(frozen=True, eq=False)
class LoopStage:
    """The rows of one group of states, or of the output: those ``at`` a slice of the n_pre + q, with weight λ.

    ``loop`` are the states that the ball of its rows bounds, if it lies on a loop. Where the rows are ``propagated``
    the features are the states of the model made by the stages before. ``ties`` are those of its rows, if they share
    weights: then they are fitted once for all.
    """

    name: str
    at: slice
    weight: float
    loop: Mask | None
    propagated: bool
    ties: Sequence[Tie] = ()

    @property
    def rows(self) -> int:
        if self.ties:
            return sum(len(tie.rows) for tie in self.ties)
        return int(self.at.stop - self.at.start)


@dataclass(frozen=True, eq=False)
class LoopPattern:
    """The ``pattern`` of a cell's rows, and the ``groups`` of their columns, for each group of rows of each stage."""

    pattern: Pattern
    groups: Mapping[str, Sequence[Groups]]

    @classmethod
    def of(cls, pattern: Pattern, data: LoopData, stages: Sequence[LoopStage]) -> Self:
        traced = data.captured.traced()
        entries, found = entries_of(traced, data.weights.shape), dict[str, list[Groups]]()
        for stage in stages:
            rows = [tie.entries(entries) for tie in stage.ties] or [entries[stage.at].toarray()]
            found[stage.name] = [groups_in(pattern, one.astype(np.int64), traced.shapes) for one in rows]
        return cls(pattern, found)


@dataclass(frozen=True, eq=False)
class LoopStudent:
    """A cell with new weights, ``fitted``; see ``Student``. ``stages`` are the groups whose rows were solved, in a
    ``pattern`` where there is one."""

    fitted: ImplicitModel
    data: LoopData
    stages: tuple[LoopStage, ...]
    pattern: LoopPattern | None = None

    @property
    def model(self) -> ImplicitModel:
        return self.fitted

    def network(self) -> nn.Module:
        """A new copy of the cell; InputError where it has no parameters of its own for the model."""
        return self.data.captured.network(self.fitted)

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """That of all rows, if there is one."""
        return {} if self.pattern is None else {stage.name: self.pattern.pattern for stage in self.stages}

    def in_pattern(self) -> list[PatternFigures]:
        """Counted on the weights in M, which are those of :meth:`network`."""
        if self.pattern is None:
            return []
        weights, found = csr_array(self.fitted.matrix - self.data.wiring), []
        for stage in self.stages:
            rows = [tie.weights(weights) for tie in stage.ties] or [weights[stage.at].toarray()]
            pairs = zip(self.pattern.groups[stage.name], rows, strict=True)
            found += [groups.figures(stage.name, self.pattern.pattern, own) for groups, own in pairs]
        return found

    @cached_property
    def errors(self) -> Mapping[str, float]:
        model, data = self.fitted, self.data
        X = equilibrium(model, data.inputs).states
        Z = X @ model.A.T + data.inputs @ model.B.T + model.state_bias
        Y = X @ model.C.T + data.inputs @ model.D.T + model.output_bias
        found = np.hstack([Z, Y])
        return {
            stage.name: relative_error([squared_error(found[:, stage.at], data.targets[:, stage.at])])
            for stage in self.stages
        }

    @property
    def weights(self) -> Mapping[str, int]:
        counts, M = np.diff(self.data.weights.indptr), self.data.weights
        return {
            stage.name: sum(int(np.count_nonzero(tie.weights(M))) for tie in stage.ties) or int(counts[stage.at].sum())
            for stage in self.stages
        }

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        names, sizes = zip(*((stage.name, stage.rows) for stage in self.stages), strict=True)
        return np.repeat(np.array(names), sizes)

    @property
    def order(self) -> Index:
        """Rows are counted in the order in which they were solved."""
        return np.arange(len(self.labels))

    @property
    def facts(self) -> Mapping[str, Any]:
        """Density of M in per cent, ‖A‖∞, λ_pf with bounds, of the baseline too, and that states are not rescaled."""
        return {
            "density_of_M": 100.0 * self.fitted.nnz / self.fitted.size,
            "row_norm": row_norm(self.fitted),
            "perron_frobenius": asdict(perron_frobenius(self.fitted)),
            "baseline_perron_frobenius": asdict(perron_frobenius(self.data.model)),
            "rescaled": False,
        }


@dataclass(frozen=True, eq=False)
class LoopProvider:
    """Problem (7) for the equilibria of a cell; see ``Provider``.

    ``layers`` are the groups with weights, in the order of substitution, and ``kappa`` bounds λ_pf of what comes out.
    """

    data: LoopData
    layers: tuple[LoopStage, ...]
    kappa: float
    pattern: LoopPattern | None = None

    @classmethod
    def of(
        cls,
        captured: CellCapture,
        U: Tensor,
        *,
        kappa: float | None = None,
        lambda1: float = 0.1,
        lambda2: float = 0.1,
        regenerate: bool = True,
        pattern: Pattern | None = None,
    ) -> Self:
        """The equilibria of a cell at inputs U (m, p); options as of :class:`simplicit.Matching`.

        Rows are to be in a ``pattern``, if there is one.

        InputError is raised where κ proves nothing, or leaves no room beside wiring; ConvergenceError where the cell
        does not come to rest.
        """
        if kappa is not None and kappa >= 1.0:
            raise refused("kappa", f"got {kappa}; a cell at rest takes 0 < kappa < 1, which bounds λ_pf of the result")
        radius = KAPPA if kappa is None else kappa
        data = with_room(LoopData.of(captured, U, tied=has_tied_rows(captured.graph)), radius)
        stages = _stages(data, lambda1, lambda2, regenerate=regenerate)
        return cls(data, stages, radius, None if pattern is None else LoopPattern.of(pattern, data, stages))

    @property
    def efforts(self) -> list[float]:
        counts = np.diff(self.data.weights.indptr)
        return [float(counts[stage.at].sum()) for stage in self.layers]

    @property
    def patterned(self) -> Collection[str]:
        return () if self.pattern is None else self.pattern.groups.keys()

    @property
    def weight_count(self) -> int:
        return self.data.captured.weight_count

    @property
    def samples(self) -> Array:
        return self.data.inputs

    @property
    def shape(self) -> tuple[int, int]:
        """(n_pre + q, n + p)."""
        return self.data.targets.shape[1], self.data.features.shape[1]

    @cached_property
    def _sensitivities(self) -> Array:
        """Mean over samples of ‖∂y/∂zᵢ‖², (n_pre + q,); 1 where the baseline is not proved, and for outputs."""
        data, model = self.data, self.data.model
        result = np.ones(self.shape[0])
        if not data.captured.proved:
            return result
        Z = torch.from_numpy(data.targets[:SAMPLES, : model.n_pre].copy())
        slopes = model.state_equation.plan.derivative(model.state_equation.plan.to_working(Z))
        q, found = model.n_outputs, np.zeros(model.n_pre)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (PROBES, q)) / np.sqrt(PROBES)
        for probe in np.eye(q) if q <= PROBES else signs:
            Z_bar = pull_back(model, slopes, torch.from_numpy(probe)[None].repeat(len(Z), 1))[0]
            found += Z_bar.square().mean(dim=0).numpy()
        result[: model.n_pre] = np.maximum(found, least_sensitivity(float(found.max())))
        return result

    def sensitivities(self, layer: LoopStage) -> Array:
        if layer.ties:
            return np.concatenate([self._sensitivities[tie.rows].mean(axis=1) for tie in layer.ties])
        return self._sensitivities[layer.at]

    def on_baseline(self) -> Iterator[tuple[LoopStage, Sequence[Rows]]]:
        for stage in self.layers:
            yield stage, self._groups(stage, self.data.features)

    def sweep(self, fit: Fit[LoopStage]) -> LoopStudent:
        solved: dict[str, tuple[csr_array, Array]] = {}
        for stage in self.layers:
            features = self.data.features
            if stage.propagated and solved:
                X = equilibrium(self._model(solved), self.data.inputs).states
                features = np.hstack([X, self.data.inputs])
            found = fit(stage, self._groups(stage, features))
            if stage.ties:
                solved[stage.name] = self._placed(stage, found)
            else:
                solved[stage.name] = found[0].coefficients, found[0].intercepts
        fitted = self.data.captured.bounded(self._model(solved))
        return LoopStudent(fitted, self.data, self.layers, self.pattern)

    def _model(self, solved: Mapping[str, tuple[csr_array, Array]]) -> ImplicitModel:
        """The model of the stages solved so far; rows of later ones are zero."""
        parts = dict(solved)
        for stage in self.layers:
            if stage.name not in parts:
                rows = stage.at.stop - stage.at.start
                parts[stage.name] = csr_array((rows, self.shape[1])), np.zeros(rows)
        return self.data.with_rows(parts)

    def _groups(self, stage: LoopStage, features: Array) -> list[Rows]:
        """The rows of a stage, in groups that share their columns."""
        found = [self._tied(stage, tie, features) for tie in stage.ties] or [self._rows(stage, features)]
        if self.pattern is None:
            return found
        return [replace(one, groups=own) for one, own in zip(found, self.pattern.groups[stage.name], strict=True)]

    def _radii(self, stage: LoopStage) -> Array:
        assert stage.loop is not None
        return self.data.radii(stage.name, stage.loop, self.kappa)

    def _root(self, stage: LoopStage) -> float:
        return float(np.sqrt(np.mean(np.square(self.data.targets[:, stage.at]))))

    def _tied(self, stage: LoopStage, tie: Tie, features: Array) -> Rows:
        """Rows that share weights over positions, in the units of ``tie.largest``."""
        data, n = self.data, self.data.model.n_states
        columns, own = tie.largest(data.columns), tie.weights(data.weights)
        left = data.targets - data.bias - features @ data.wiring.T
        ball = None
        if stage.loop is not None:
            radii = np.full(self.shape[0], np.inf)
            radii[stage.at] = self._radii(stage)
            ball = Ball(radii[tie.rows].min(axis=1), in_loop(tie, stage.loop))
        scaled = tie.features(features) / columns
        inputs = ~in_loop(tie, np.arange(self.shape[1]) < n)
        return Rows(
            data=Samples(scaled, tie.targets(left), bool(data.bias[stage.at].any())),
            weight=stage.weight,
            support=own != 0,
            weights=own * columns,
            scales=Scales(np.full(len(own), self._root(stage)), np.sqrt(np.mean(np.square(scaled), axis=0)), inputs),
            pieces=lambda penalty: penalty.pieces(*own.shape),
            ball=ball,
            settled=features is data.features,
        )

    def _placed(self, stage: LoopStage, found: Sequence[Solution]) -> tuple[csr_array, Array]:
        """Weights and constants of a stage whose rows are tied, as ``LoopData.with_rows`` takes them."""
        data, (rows, width) = self.data, self.shape
        whole, bias = csr_array((rows, width)), data.bias.copy()
        for tie, one in zip(stage.ties, found, strict=True):
            coo = tie.placed(one.coefficients.toarray() / tie.largest(data.columns))
            whole = whole + csr_array((coo.data, (coo.row, coo.col)), shape=(rows, width))
            bias[tie.rows] += one.intercepts[:, None]
        return csr_array(whole[stage.at] @ diags_array(data.columns)), bias[stage.at]

    def _rows(self, stage: LoopStage, features: Array) -> Rows:
        data, places = self.data, np.arange(self.shape[0])[stage.at]
        bias = data.bias[stage.at]
        wiring, own = data.wiring[stage.at], data.weights[stage.at].toarray()
        scaled = features / data.columns if features is not data.features else self._scaled
        targets = data.targets[:, stage.at] - features @ wiring.T
        inputs = np.arange(self.shape[1]) >= data.model.n_states
        return Rows(
            data=Samples(scaled, targets, bool(bias.any())),
            weight=stage.weight,
            support=own != 0,
            weights=own * data.columns,
            scales=Scales(np.full(stage.rows, self._root(stage)), self._column_scales, inputs),
            pieces=lambda penalty: penalty.pieces(*self.shape).select(places),
            ball=None if stage.loop is None else Ball(self._radii(stage), stage.loop),
            settled=features is data.features,
        )

    @cached_property
    def _scaled(self) -> Array:
        return np.asarray(self.data.features / self.data.columns)

    @cached_property
    def _column_scales(self) -> Array:
        return np.asarray(np.sqrt(np.mean(np.square(self._scaled), axis=0)))


def _stages(data: LoopData, lambda1: float, lambda2: float, *, regenerate: bool) -> tuple[LoopStage, ...]:
    """The groups with weights, in the order of substitution: loops on the baseline's states, what follows on their own.

    Without a readout there are no rows of the output.
    """
    model, n = data.model, data.model.n_states
    loops: dict[str, Mask] = {}
    for cycle in model.state_equation.cycles:
        mask = np.zeros(n + model.n_inputs, dtype=bool)
        for group in cycle.groups:
            mask[:n][model.slices[group.name]] = True
        loops |= {group.name: mask for group in cycle.groups}
    at = {part.start: name for name, part in model.slices.items()}
    order = [at[stage.target.start] for stage in plan_by_groups(model.groups, _state_blocks(model)).stages]
    counts, stages, behind = np.diff(data.weights.indptr), list[LoopStage](), False
    for name in order:
        behind = behind or name in loops
        if counts[data.rows[name]].any():
            propagated = regenerate and behind and name not in loops
            ties = data.ties.get(name, ())
            stages.append(LoopStage(name, data.rows[name], lambda1, loops.get(name), propagated, ties))
    if data.captured.has_readout and counts[data.rows[OUTPUT]].any():
        ties = data.ties.get(OUTPUT, ())
        stages.append(LoopStage(OUTPUT, data.rows[OUTPUT], lambda2, None, regenerate, ties))
    return tuple(stages)


def _state_blocks(model: ImplicitModel) -> dict[tuple[str, str], LinearMap]:
    return {key: block for key, block in model.blocks.items() if key[0] != OUTPUT and key[1] != INPUT}
