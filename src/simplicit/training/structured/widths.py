r"""The units of a network that can be dropped, by the widths that they make up: neurons, channels, attention heads.

A unit is what :mod:`~simplicit.training.structured.tracing` finds to go together: the rows of layers that make it, and
the columns of all layers that read it. Where all these columns are zero nobody reads it, and its rows are zero too,
with their biases, and the outputs stay what they are. Units with as many rows in the same layers, and as many columns
in the same, are those of one *width*: the channels between two convolutions, the heads of an attention.

Left alone are the states that the network gives out; those that several layers add to, a residual stream; and those of
which a layer that makes or reads them is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simplicit.network.graph import NetworkGraph
from simplicit.rows.batch import Index, Mask
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.structured.tracing import Traced, passes

#: What the layers of a network have, and take for a sample.
SIZES = ("weights", "multiply-adds")
#: A group of a layer's rows, which share their columns.
Group = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Width:
    """Units of one kind.

    ``rows`` are those of each layer that make them, (units, r), and ``columns`` those of each group of rows that read
    them, (units, c). One unit has so many ``weights``, and takes so many ``operations``, multiply-adds for a sample.
    Their ``kind`` is what they are called: neurons, channels, heads.
    """

    rows: Mapping[str, Index]
    columns: Mapping[Group, Index]
    weights: int
    operations: int
    kind: str

    @property
    def name(self) -> str:
        """That of the layer that makes them first."""
        return next(iter(self.rows))

    @property
    def readers(self) -> list[str]:
        """The layers that read them."""
        return list(dict.fromkeys(name for name, _ in self.columns))

    @cached_property
    def count(self) -> int:
        """How many units there are."""
        return len(next(iter(self.rows.values())))


@dataclass(frozen=True, eq=False)
class Plan:
    """The widths of a network, and the layers that are trained; ``positions`` says at how many of a sample each is."""

    layers: Mapping[str, ChannelLayer]
    widths: list[Width]
    positions: Mapping[str, int]

    @classmethod
    def of(cls, graph: NetworkGraph, layers: Sequence[ChannelLayer], trained: Sequence[ChannelLayer]) -> Plan:
        """From all layers of a graph, of which some are trained."""
        traced = Traced(graph, layers)
        known = {layer.name: layer for layer in layers}
        made, read = _members(traced, known)
        kept = {layer.name for layer in trained}
        outputs = set(traced.outputs.tolist())
        kinds: dict[tuple[object, ...], list[int]] = {}
        for root, rows in made.items():
            columns = read.get(root, {})
            names = {*rows, *(name for name, _ in columns)}
            if columns and names <= kept and root not in outputs and not traced.classes.shared(root):
                sizes = [(key, len(part)) for part_of in (rows, columns) for key, part in part_of.items()]
                kinds.setdefault(tuple(sizes), []).append(root)
        widths = [
            _width([made[root] for root in roots], [read[root] for root in roots], known, traced.positions)
            for roots in kinds.values()
            if len(roots) > 1
        ]
        return cls({layer.name: layer for layer in trained}, widths, traced.positions)

    @property
    def everything(self) -> list[Mask]:
        """All units of all widths."""
        return [np.ones(width.count, dtype=bool) for width in self.widths]

    def saved(self, kept: Sequence[Mask]) -> dict[str, Any]:
        """How many units each width has and keeps, and what its layers have and take, ready for JSON."""
        counts: dict[str, list[int]] = {}
        for width, units in zip(self.widths, kept, strict=True):
            before = counts.get(width.name, [0, 0])
            counts[width.name] = [before[0] + width.count, before[1] + int(units.sum())]
        sizes = dict(zip(SIZES, (self.kept_weights, self.kept_operations), strict=True))
        return {"units": counts} | {
            name: [sum(count(one).values()) for one in (self.everything, kept)] for name, count in sizes.items()
        }

    def kept_operations(self, kept: Sequence[Mask]) -> dict[str, int]:
        """The multiply-adds for one sample that each layer takes then."""
        return {name: count * self.positions[name] for name, count in self.kept_weights(kept).items()}

    def kept_weights(self, kept: Sequence[Mask]) -> dict[str, int]:
        """The weights that each layer has where units of each width are kept: its rows and columns that are left."""
        weights = {}
        for name, layer in self.layers.items():
            rows, columns = self.masks(layer, kept)
            weights[name] = int((rows.sum(axis=1) * columns.sum(axis=1)).sum())
        return weights

    def masks(self, layer: ChannelLayer, kept: Sequence[Mask]) -> tuple[Mask, Mask]:
        """The rows (groups, r) and columns (groups, d) of a layer that are left."""
        rows = np.ones(layer.rows, dtype=bool)
        columns = np.ones((layer.groups, layer.columns), dtype=bool)
        for width, units in zip(self.widths, kept, strict=True):
            if layer.name in width.rows:
                rows[width.rows[layer.name][~units]] = False
            for (name, group), places in width.columns.items():
                if name == layer.name:
                    columns[group, places[~units].ravel()] = False
        return rows.reshape(layer.groups, -1), columns


def _members(
    traced: Traced, layers: Mapping[str, ChannelLayer]
) -> tuple[dict[int, dict[str, list[int]]], dict[int, dict[Group, list[int]]]]:
    """For each class the rows of each layer, and the columns of each group of rows."""
    made: dict[int, dict[str, list[int]]] = {}
    read: dict[int, dict[Group, list[int]]] = {}
    for name, layer in layers.items():
        for row, root in enumerate(traced.classes.roots(traced.rows[name]).tolist()):
            made.setdefault(root, {}).setdefault(name, []).append(row)
        if passes(layer):
            continue
        for group, labels in enumerate(traced.classes.roots(traced.columns[name]).tolist()):
            for column, root in enumerate(labels):
                if root:
                    read.setdefault(root, {}).setdefault((name, group), []).append(column)
    return made, read


def _width(
    made: Sequence[Mapping[str, list[int]]],
    read: Sequence[Mapping[Group, list[int]]],
    layers: Mapping[str, ChannelLayer],
    positions: Mapping[str, int],
) -> Width:
    rows = {name: np.array([unit[name] for unit in made]) for name in made[0]}
    columns = {key: np.array([unit[key] for unit in read]) for key in read[0]}
    weights = {name: places.shape[1] * layers[name].columns for name, places in rows.items()}
    for (name, _), places in columns.items():
        weights[name] = weights.get(name, 0) + places.shape[1] * (layers[name].rows // layers[name].groups)
    operations = sum(count * positions[name] for name, count in weights.items())
    kind = "channels" if any(layers[name].geometry is not None for name in rows) else "neurons"
    kind = "heads" if all(places.shape[1] > 1 for places in rows.values()) else kind
    return Width(rows, columns, sum(weights.values()), operations, kind)
