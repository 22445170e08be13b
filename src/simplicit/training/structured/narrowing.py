r"""A provider of layers that lose units: columns are taken from the rows that read them, and rows that nobody reads.

How many units each width keeps is known from a pilot on the baseline's states
(:mod:`~simplicit.training.structured.shares`). Which ones is decided when the sweep comes to the layer that reads them,
by exchanges on the states that the student has there, where rows that are to be dropped themselves count for nothing. A
width that several layers read keeps what the pilot chose for all of them together. Rows of dropped units become zero
after the sweep: nobody reads them by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import diags_array
from torch import Tensor
from torch.fx import Node

from simplicit.checks import lookups_checked, refused
from simplicit.network.graph import NetworkGraph
from simplicit.rows import RowStatus, Solution
from simplicit.rows.batch import Array, Mask
from simplicit.training.channels import ChannelProvider, ChannelStudent
from simplicit.training.channels.after import Norm
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.parts import changed_in, part_of
from simplicit.training.problem import Ridge, Rows
from simplicit.training.provider import Fit
from simplicit.training.structured.dropping import Reader, exchanged
from simplicit.training.structured.tableau import Tableau
from simplicit.training.structured.widths import SIZES, Plan, Width
from simplicit.training.training import Trained

#: Widths that a summary names.
LISTED = 6


@dataclass(frozen=True, eq=False)
class NarrowStudent(ChannelStudent):
    """A network that lost units, with the account of how many and what that saves."""

    saved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**super().facts, **self.saved}


@dataclass(eq=False)
class Narrowing:
    """The layers of a ``provider`` without the units that are not ``kept``, (units,) for each width of a ``plan``.

    The ``undecided`` widths are those whose units may still be exchanged when the layer that reads them is come to; so
    many were ``exchanged``. Once none is left, rows of dropped units have no support.
    """

    provider: ChannelProvider
    plan: Plan
    ridge: Ridge
    kept: list[Mask]
    undecided: set[int]
    exchanged: int = 0

    @property
    def layers(self) -> list[ChannelLayer]:
        return self.provider.layers

    @property
    def weight_count(self) -> int:
        return self.provider.weight_count

    @property
    def samples(self) -> Any:
        return self.provider.samples

    @property
    def shape(self) -> tuple[int, int]:
        return self.provider.shape

    @property
    def efforts(self) -> list[float]:
        return self.provider.efforts

    @property
    def patterned(self) -> Collection[str]:
        return self.provider.patterned

    def sensitivities(self, layer: ChannelLayer) -> Array:
        return self.provider.sensitivities(layer)

    def on_baseline(self) -> Iterator[tuple[ChannelLayer, Sequence[Rows]]]:
        for layer, groups in self.provider.on_baseline():
            yield layer, self._narrowed(layer, groups)

    def sweep(self, fit: Fit[ChannelLayer]) -> NarrowStudent:
        def narrowed(layer: ChannelLayer, groups: Sequence[Rows]) -> Sequence[Solution]:
            self._decide(layer, groups)
            return fit(layer, self._narrowed(layer, groups))

        student = self.provider.sweep(narrowed)
        changed = dict(student.changed)
        for layer in self.layers:
            changed |= silenced(student.graph, layer, self.plan.masks(layer, self.kept)[0], changed)
        _check_unread(student.graph, self.samples.batches[0], student.changed, changed)
        saved = self.plan.saved(self.kept)
        return NarrowStudent(
            student.graph, student.layers, changed, student.errors, student.left_alone, student.patterns, saved=saved
        )

    def finished(self, trained: Trained) -> Trained:
        """What was trained, with rows of zeros for dropped units."""
        solutions = {}
        for layer in self.layers:
            left, _ = self.plan.masks(layer, self.kept)
            pairs = zip(trained.solutions[layer.name], left, strict=True)
            solutions[layer.name] = [_silent(one, rows) for one, rows in pairs]
        return replace(trained, solutions=solutions)

    def notes(self) -> dict[str, str]:
        """What a summary says of the units that are gone, and of what that saves."""
        pairs = list(zip(self.plan.widths, self.kept, strict=True))
        every, dropped = sum(width.count for width in self.plan.widths), sum(int((~units).sum()) for _, units in pairs)
        each = [f"{int((~units).sum())} of {width.count} {width.kind} of {width.name}" for width, units in pairs]
        listed = ", ".join(each[:LISTED]) + (f" and {len(each) - LISTED} more" if len(each) > LISTED else "")
        saved = self.plan.saved(self.kept)
        sizes = [f"{name} {saved[name][0]:,} -> {saved[name][1]:,}" for name in SIZES]
        return {
            "dropped": f"{dropped:,} of {every:,} units, {self.exchanged:,} exchanged: {listed}",
            "left": ", ".join(sizes),
        }

    def _narrowed(self, layer: ChannelLayer, groups: Sequence[Rows]) -> list[Rows]:
        """The rows of a layer on the columns that are left; none of a row that is dropped for good."""
        left, columns = self.plan.masks(layer, self.kept)
        if any(layer.name in self.plan.widths[number].rows for number in self.undecided):
            left = np.ones_like(left)
        return [
            replace(rows, support=rows.support & columns[group] & left[group][:, None])
            for group, rows in enumerate(groups)
        ]

    def _decide(self, layer: ChannelLayer, groups: Sequence[Rows]) -> None:
        """Exchange the units that this layer alone reads."""
        mine = [number for number in sorted(self.undecided) if self.plan.widths[number].readers == [layer.name]]
        if not mine:
            return
        left, columns = self.plan.masks(layer, self.kept)
        weights = self.sensitivities(layer).reshape(left.shape) * left
        tableaus = tableaus_of(layer, groups, self.ridge, weights, columns)
        for number in mine:
            readers = readers_of(self.plan.widths[number], tableaus)
            self.kept[number], count = exchanged(readers, self.kept[number])
            self.exchanged += count
            self.undecided.discard(number)


def tableaus_of(
    layer: ChannelLayer, groups: Sequence[Rows], ridge: Ridge, weights: Array, columns: Mask
) -> dict[tuple[str, int], Tableau]:
    """A tableau for each group of rows of a layer, with the weights (groups, r) and some columns (groups, d) inside."""
    problems = [rows.least_squares(ridge) for rows in groups]
    return {
        (layer.name, group): Tableau(problem.gram, problem.cross, weights[group], columns[group])
        for group, problem in enumerate(problems)
    }


def readers_of(width: Width, tableaus: Mapping[tuple[str, int], Tableau]) -> list[Reader]:
    """Who reads the units of a width."""
    return [Reader(tableaus[key], places) for key, places in width.columns.items()]


def _check_unread(
    graph: NetworkGraph, batch: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Refuse a network whose outputs change when rows that nobody reads become zero: it divides by them."""
    with torch.no_grad(), lookups_checked():
        one, other = (graph.module(*{**graph.constants, **changed}.values(), batch) for changed in (before, after))
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max())):
        raise refused("net", "it divides by states that are zero without their units, so that these cannot be dropped")


def silenced(graph: NetworkGraph, layer: ChannelLayer, left: Mask, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The constants of a layer with zeros in the rows that are not ``left``, (groups, r), and in what follows them.

    Biases and norms are those that the layer alone has.
    """
    if left.all():
        return {}
    now = {**graph.constants, **changed}
    staying = torch.from_numpy(left)
    like = now[layer.weight]
    found = layer.changed(layer.kernel(like) * staying[:, :, None], like)
    rows = staying.reshape(-1)
    if layer.bias is not None and layer.free_bias:
        whole, part = now[layer.bias], layer.last.bias_part
        found |= {layer.bias: changed_in(part, whole, part_of(part, whole) * rows)}
    if layer.norm is not None:
        found |= {name: now[name] * rows for name in (layer.norm.mean, *_scales(layer.norm))}
    return found


def _scales(norm: Norm) -> list[str]:
    """γ and β of a norm, where it alone has them."""
    node = norm.result if norm.result.op == "call_function" and len(norm.result.args) > 2 else norm.result.args[0]
    assert isinstance(node, Node)
    given = [one for one in node.args[1:3] if isinstance(one, Node)]
    return [one.name for one in given if one.op == "placeholder" and len(one.users) == 1]


def _silent(solution: Solution, left: Mask) -> Solution:
    """A solution in which rows that nobody reads have nothing to match: zeros, at no error."""
    if left.all():
        return solution
    coefficients = (diags_array(left.astype(np.float64)) @ solution.coefficients).tocsr()
    coefficients.eliminate_zeros()
    status = np.where(left, solution.status, RowStatus.CONVERGED).astype(np.int8)
    nothing: dict[str, Any] = {
        name: np.where(left, getattr(solution, name), 0.0)
        for name in ("objective", "dual_gap", "relative_gap", "residual", "intercepts")
    }
    return replace(solution, coefficients=coefficients, status=status, **nothing)
