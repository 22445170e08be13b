r"""A network's channels as rows: one row problem for each output channel, tied over all positions.

A linear layer is a convolution with one position. The rows see the patches of the student's inputs, summed up
(:mod:`~simplicit.training.channels.statistics`). Supports are selected by what errors do to the outputs, and there
least squares count positions by it too (:mod:`~simplicit.training.channels.sensitivity`); otherwise all positions are
alike, as (7) has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import Batch
from simplicit.network import from_torch, with_constants
from simplicit.network.apart import check_function
from simplicit.network.graph import NetworkGraph
from simplicit.rows import Penalty
from simplicit.rows.batch import Array, Index
from simplicit.training.channels.choice import EVERYTHING, Choice
from simplicit.training.channels.finding import found_layers
from simplicit.training.channels.layers import ChannelLayer, nodes_before
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.memory import Needs, check_samples_fit
from simplicit.training.channels.moments import sums_of
from simplicit.training.channels.outputs import Block, Outputs
from simplicit.training.channels.patterns import counted, groups_of
from simplicit.training.channels.samples import BATCH, Samples
from simplicit.training.channels.sensitivity import Sensitivity, output_sensitivities
from simplicit.training.channels.statistics import Statistics
from simplicit.training.channels.sweep import Sweep
from simplicit.training.problem import LeastSquares, Rows
from simplicit.training.provider import Fit
from simplicit.training.support.pattern import Groups, Pattern, PatternFigures
from simplicit.training.units import Scales

#: A row counts in :mod:`~simplicit.training.channels.outputs` by so much of the largest sensitivity of its layer at
#: least: outputs that hardly look at it on the baseline may ask for too much of it.
LEAST_SHARE = 1e-3


@dataclass(frozen=True, eq=False)
class ChannelStudent:
    """The network with new weights in its layers, some of them in ``patterns``, biases and statistics of norms; see
    ``Student``.

    ``centres`` are the mean patch (g, d) and the mass of all patches (g, 1) that each layer met.
    """

    graph: NetworkGraph
    layers: Sequence[ChannelLayer]
    changed: Mapping[str, Tensor]
    errors: Mapping[str, float]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    centres: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ChannelStudent({len(self.layers)} layers of {type(self.graph.network).__name__})"

    @cached_property
    def model(self) -> ImplicitModel:
        """The exact implicit model of the network."""
        return from_torch(self.network(), self.graph.given(), output=self.graph.output_name)

    def network(self) -> nn.Module:
        """A new copy of the network, of its own class and in evaluation mode."""
        return with_constants(self.graph, self.changed)

    @property
    def weights(self) -> Mapping[str, int]:
        return {layer.name: layer.size for layer in self.layers}

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        return np.array([layer.name for layer in self.layers for _ in range(layer.rows)])

    @property
    def order(self) -> Index:
        return np.arange(sum(layer.rows for layer in self.layers))

    def in_pattern(self) -> list[PatternFigures]:
        own = [layer for layer in self.layers if layer.name in self.patterns]
        if not own:
            return []
        pairs = zip(self.graph.network.parameters(), self.network().parameters(), strict=True)
        now = {old.data_ptr(): new.detach() for old, new in pairs}
        weights = {layer.name: now[self.graph.constants[layer.weight].data_ptr()] for layer in own}
        return [counted(layer, self.patterns[layer.name], weights[layer.name]) for layer in own]

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"left_alone": dict(self.left_alone)} if self.left_alone else {}


@dataclass(frozen=True, eq=False)
class ChannelProvider:
    """The layers of a graph on some samples, which come in batches; see ``Provider``.

    λ is ``lambda1`` of all layers but the last, which has ``lambda2``. Every layer is fitted on the student's own
    states with ``propagate``, the last one with ``regenerate`` too; otherwise on the baseline's. Positions are
    ``weighted`` where they count by what an error there does to the outputs. ``needs`` is what all that takes at most,
    and batches are differentiated and summed up on so many ``workers``. ``wished`` are the patterns that layers are to
    have.
    """

    graph: NetworkGraph
    layers: list[ChannelLayer]
    samples: Samples
    lambda1: float
    lambda2: float
    propagate: bool
    regenerate: bool
    weighted: bool
    needs: Needs
    masks: Masks | None = None
    left_alone: Mapping[str, str] = field(default_factory=dict)
    wished: Mapping[str, Pattern] = field(default_factory=dict)
    workers: int = 1
    passes: int = 0

    @classmethod
    def of(
        cls,
        graph: NetworkGraph,
        inputs: Batch | Samples,
        *,
        workers: int,
        differentiated: bool = True,
        weighted: bool = True,
        lambda1: float = 0.1,
        lambda2: float = 0.1,
        propagate: bool = True,
        regenerate: bool = True,
        mask: Any = None,
        choice: Choice = EVERYTHING,
        passes: int = 0,
    ) -> Self:
        """All layers of a graph, or those of a ``choice``.

        ``mask`` (m, T) is zero where a position is padding; the network's own ``attention_mask`` is taken where there
        is none. Memory is estimated for so many ``workers``, each at a row, and for derivatives if sensitivities will
        be asked for (``differentiated``). InputError is raised where inputs or mask do not fit, no weight can be
        trained, or there is not enough memory.
        """
        samples = Samples.of(graph, inputs)
        check_function(graph, samples.batches[0])
        layers, left_alone = choice.of(found_layers(graph))
        at_a_time, store = BATCH if differentiated else 0, samples.store
        needs = check_samples_fit(graph, layers, len(samples), workers, differentiated=at_a_time, store=store)
        masks = Masks.of(graph, samples.batches, mask, BATCH)
        if mask is not None and masks is not None:
            masks.check_used(layers)
        options = (lambda1, lambda2, propagate, regenerate, weighted)
        pairs = ((layer.name, choice.pattern(layer.name)) for layer in layers)
        wished = {name: pattern for name, pattern in pairs if pattern is not None}
        return cls(graph, layers, samples, *options, needs, masks, left_alone, wished, workers, passes)

    @property
    def weight_count(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def efforts(self) -> list[float]:
        return [float(layer.size) for layer in self.layers]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the first layer; :meth:`check_penalty` refuses what does not fit all of them."""
        return _shape(self.layers[0])

    @cached_property
    def groups(self) -> Mapping[str, Groups]:
        """The groups of the columns of layers with a pattern and enough inputs for it."""
        own = [layer for layer in self.layers if layer.name in self.wished]
        found = {layer.name: groups_of(layer, self.wished[layer.name]) for layer in own}
        return {name: groups for name, groups in found.items() if groups is not None}

    @property
    def patterned(self) -> Collection[str]:
        return self.groups.keys()

    def check_penalty(self, argument: str, penalty: Penalty) -> None:
        """Refuse a penalty, given as that argument, with a number for each row or column where layers have others."""
        for layer in self.layers:
            rows, columns = _shape(layer)
            try:
                penalty.pieces(rows, columns)
            except InputError as error:
                has = f"layer {layer.name!r} has {rows} rows and {columns} columns"
                raise InputError(
                    f"{error} ({argument} must fit every layer, and {has})", argument=error.argument
                ) from error

    @cached_property
    def _sensitivities(self) -> dict[str, Sensitivity]:
        samples = self.samples
        return output_sensitivities(self.graph, self.layers, samples.batches, self.masks, samples.store, self.workers)

    def sensitivities(self, layer: ChannelLayer) -> Array:
        return self._sensitivities[layer.name].channels

    @cached_property
    def _sweep(self) -> Sweep:
        known = self._sensitivities if self.weighted else {}
        return Sweep(
            self.graph,
            self.layers,
            self.samples.batches,
            propagate=self.propagate,
            regenerate=self.regenerate,
            omegas={name: one.positions for name, one in known.items() if one.positions is not None},
            masks=self.masks,
            store=self.samples.store,
            workers=self.workers,
        )

    def on_baseline(self) -> Iterator[tuple[ChannelLayer, Sequence[Rows]]]:
        for layer, statistics in self._sweep.statistics():
            yield layer, self._rows(layer, statistics)

    def sweep(self, fit: Fit[ChannelLayer]) -> ChannelStudent:
        centres: dict[str, tuple[Array, Array]] = {}

        def solver(layer: ChannelLayer, statistics: Statistics) -> Array:
            centres[layer.name] = statistics.mean, statistics.mass
            return np.stack([found.coefficients.toarray() for found in fit(layer, self._rows(layer, statistics))])

        changed, errors = self._sweep.run(solver)
        patterns = {name: self.wished[name] for name in self.groups}
        return ChannelStudent(self.graph, self.layers, changed, errors, self.left_alone, patterns, centres)

    def together(
        self, student: ChannelStudent, problems: Mapping[str, Sequence[LeastSquares]], values: Mapping[str, Array]
    ) -> Together:
        """The layers of a student by what it puts out, with ``values`` (g, r, d) that solve their ``problems``."""
        blocks = []
        for layer in self.layers:
            least = self.sensitivities(layer)
            least = np.maximum(least, LEAST_SHARE * least.max())
            blocks.append(Block(layer, problems[layer.name], values[layer.name], least, *student.centres[layer.name]))
        outputs = Outputs(self.graph, self.samples.batches, blocks, student.changed, self.workers)
        return Together(self._sweep, student, outputs, self.passes)

    @cached_property
    def _on_inputs(self) -> set[ChannelLayer]:
        """The layers that see the network's input through no other layer."""
        nodes = {use.node for layer in self.layers for use in layer.uses}
        sources = {layer: [use.source for use in layer.uses] for layer in self.layers}
        return {
            layer
            for layer, own in sources.items()
            if not any(node in nodes for source in own for node in nodes_before(source))
        }

    def _rows(self, layer: ChannelLayer, statistics: Statistics) -> list[Rows]:
        return [self._group(layer, statistics, group) for group in range(layer.groups)]

    def _group(self, layer: ChannelLayer, statistics: Statistics, group: int) -> Rows:
        sums, weights = sums_of(statistics, group, constant=layer.constant), statistics.weights[group]
        scales = Scales(
            targets=np.full(len(weights), np.sqrt(sums.energy.mean() / sums.count)),
            columns=np.sqrt(sums.gram.diagonal() / sums.count),
            inputs=np.full(weights.shape[1], layer in self._on_inputs),
        )
        return Rows(
            data=sums,
            weight=self.lambda2 if layer is self.layers[-1] else self.lambda1,
            support=weights != 0,
            weights=weights,
            scales=scales,
            pieces=lambda penalty: penalty.pieces(*weights.shape),
            settled=statistics.settled,
            groups=self.groups.get(layer.name),
        )


@dataclass(frozen=True, eq=False)
class Together:
    """A student whose layers answer for the outputs together, in so many ``passes``; see ``Together`` of providers."""

    whole: Sweep
    student: ChannelStudent
    outputs: Outputs
    passes: int

    @cached_property
    def _step(self) -> Array:
        return self.outputs.fitted(self.passes)[0]

    @cached_property
    def problems(self) -> dict[str, list[LeastSquares]]:
        blocks, moved = self.outputs.blocks, self.outputs.moved(self._step)
        return {block.layer.name: problems for block, problems in zip(blocks, moved, strict=True)}

    @cached_property
    def values(self) -> dict[str, Array]:
        pairs = zip(self.outputs.blocks, self.outputs.split(self._step), strict=True)
        return {block.layer.name: block.values + delta for block, (delta, _) in pairs}

    def with_values(self, values: Mapping[str, Array]) -> ChannelStudent:
        changed = self.outputs.constants(self.outputs.at(values, self._step))
        return replace(self.student, changed=changed, errors=self.whole.errors(changed))


def _shape(layer: ChannelLayer) -> tuple[int, int]:
    """Rows and columns of each group of a layer's channels."""
    return layer.rows // layer.groups, layer.columns
