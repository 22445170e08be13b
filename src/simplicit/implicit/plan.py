r"""The plan of an evaluation: the states cut into stages, each computed with one activation and a few products.

Where an order of substitution exists, among the groups or among the single states, the stages stand in that order and
one pass through them is exact. Otherwise they stand in the order of the groups and a pass is one step of Picard's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit.groups import Activation, StateGroup, slices_of
from simplicit.implicit.maps import Csr, CsrMap, LinearMap
from simplicit.implicit.ordering import dependency_order, state_levels

Columns: TypeAlias = slice | Tensor


@dataclass(frozen=True)
class Stage:
    """The states ``target``, which are φ of their drive plus the sum of map.apply(X[:, source]) over the terms."""

    target: slice
    activation: Activation
    terms: tuple[tuple[Columns, LinearMap], ...]


@dataclass(frozen=True)
class Plan:
    """Stages over columns in working order, which substitution follows where the plan is ``triangular``.

    Matrices are (m, n), samples first. ``order[k]`` is the state at working position k; None if that is state k.
    """

    stages: tuple[Stage, ...]
    triangular: bool
    order: Tensor | None = None

    def to_working(self, X: Tensor) -> Tensor:
        """X with its columns in the working order instead of the model's order of states."""
        return X if self.order is None else X[:, self.order]

    def to_model(self, X: Tensor) -> Tensor:
        """X with its columns in the model's order of states instead of the working order."""
        return X if self.order is None else X[:, torch.argsort(self.order)]

    def substitute_(self, Z: Tensor) -> Tensor:
        """X = φ(X Aᵀ + drive) by one pass over a triangular plan; Z holds the drive, and then X Aᵀ + drive."""
        X = torch.empty_like(Z)
        for stage in self.stages:
            z = Z[:, stage.target]
            for source, block in stage.terms:
                z += block.apply(X[:, source])
            X[:, stage.target] = stage.activation(z)
        return X

    def substitute_back_(self, slopes: Tensor, X_bar: Tensor) -> Tensor:
        """Z̄ = slopes ∘ (Z̄ A + X̄) by one pass in reverse over a triangular plan, in the memory of X̄."""
        for stage in reversed(self.stages):
            z_bar = X_bar[:, stage.target]
            z_bar *= slopes[:, stage.target]
            for source, block in stage.terms:
                X_bar[:, source] += block.apply_transpose(z_bar)
        return X_bar

    def product(self, X: Tensor) -> Tensor:
        """X Aᵀ."""
        Z = torch.zeros_like(X)
        for stage in self.stages:
            for source, block in stage.terms:
                Z[:, stage.target] += block.apply(X[:, source])
        return Z

    def transposed_product(self, Z_bar: Tensor) -> Tensor:
        """Z̄ A."""
        X_bar = torch.zeros_like(Z_bar)
        for stage in self.stages:
            for source, block in stage.terms:
                X_bar[:, source] += block.apply_transpose(Z_bar[:, stage.target])
        return X_bar

    def activate(self, Z: Tensor) -> Tensor:
        """φ(Z)."""
        return self._by_stage(Activation.__call__, Z)

    def derivative(self, Z: Tensor) -> Tensor:
        """φ'(Z)."""
        return self._by_stage(Activation.derivative, Z)

    def spread(self, Z: Tensor, radius: Tensor) -> Tensor:
        """A bound on |φ(Z') - φ(Z)| for all |Z' - Z| <= radius."""
        return self._by_stage(Activation.spread, Z, radius)

    def _by_stage(self, function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
        """What ``function`` of each stage's activation makes of its columns."""
        result = torch.empty_like(arrays[0])
        for stage in self.stages:
            result[:, stage.target] = function(stage.activation, *(array[:, stage.target] for array in arrays))
        return result


def plan_by_groups(groups: Sequence[StateGroup], blocks: Mapping[tuple[str, str], LinearMap]) -> Plan:
    """One stage for each group, in an order of substitution if the groups have one, with the blocks of A as they are.

    The groups stand in the order of the states; blocks are keyed (row group, column group), zero ones left out.
    """
    targets, activations = slices_of(groups), {group.name: group.activation for group in groups}
    sources: dict[str, list[str]] = {name: [column for row, column in blocks if row == name] for name in targets}
    order = dependency_order(sources)
    stages = tuple(
        Stage(targets[name], activations[name], tuple((targets[h], blocks[name, h]) for h in sources[name]))
        for name in order or targets
    )
    return Plan(stages, triangular=order is not None)


def plan_by_states(A: Csr, activations: Sequence[Activation]) -> Plan | None:
    """One stage for each level of states and activation in it; None if the states have no order of substitution.

    A (n, n) is canonical; ``activations`` holds the φ of every state.
    """
    levels = state_levels(A)
    if levels is None:
        return None
    kinds = {activation: number for number, activation in enumerate(dict.fromkeys(activations))}
    kind = np.array([kinds[activation] for activation in activations], dtype=np.int64)
    order = np.lexsort((kind, levels))
    position = np.argsort(order)
    key = levels[order] * (len(kinds) + 1) + kind[order]
    cuts = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(order)]
    stages = []
    for start, stop in pairwise(cuts):
        rows = A[order[start:stop]]
        used = np.unique(rows.indices)
        terms = ((torch.from_numpy(position[used]), CsrMap(rows[:, used])),) if used.size else ()
        stages.append(Stage(slice(start, stop), activations[order[start]], terms))
    return Plan(tuple(stages), triangular=True, order=torch.from_numpy(order))
