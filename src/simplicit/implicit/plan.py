r"""The plan of an evaluation: the states cut into stages, each computed with one activation and a few products.

Where an order of substitution exists, among the groups or among the single states, the stages stand in that order and
one pass through them is exact. Otherwise they stand in the order of the groups and a pass is one step of Picard's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit.groups import Activation, Block, StateGroup, pre_slices_of, slices_of
from simplicit.implicit.maps import Csr, CsrMap, LinearMap
from simplicit.implicit.ordering import dependency_order, state_levels

Columns: TypeAlias = slice | Tensor


@dataclass(frozen=True)
class Stage:
    """The states ``target``, which are φ of the pre-activations ``rows``, a drive and the sum of the terms.

    A term is map.apply(X[:, source]). ``rows`` are ``target`` where φ is elementwise in all stages.
    """

    target: slice
    rows: slice
    activation: Activation | Block
    terms: tuple[tuple[Columns, LinearMap], ...]


@dataclass(frozen=True)
class Plan:
    """Stages over columns in working order, which substitution follows where the plan is ``triangular``.

    States X are (m, n) and pre-activations Z (m, ``n_pre``), samples first; n = n_pre unless there are blocks.
    ``order[k]`` is the state at working position k; None if that is state k, as it is where there are blocks.
    """

    stages: tuple[Stage, ...]
    triangular: bool
    order: Tensor | None = None

    @cached_property
    def n_states(self) -> int:
        """n."""
        return max((stage.target.stop for stage in self.stages), default=0)

    @cached_property
    def n_pre(self) -> int:
        """How many pre-activations there are."""
        return max((stage.rows.stop for stage in self.stages), default=0)

    def to_working(self, X: Tensor) -> Tensor:
        """X with its columns in the working order instead of the model's order of states."""
        return X if self.order is None else X[:, self.order]

    def to_model(self, X: Tensor) -> Tensor:
        """X with its columns in the model's order of states instead of the working order."""
        return X if self.order is None else X[:, torch.argsort(self.order)]

    def substitute_(self, Z: Tensor) -> Tensor:
        """X = φ(X Aᵀ + drive) by one pass over a triangular plan; Z holds the drive, and then X Aᵀ + drive."""
        X = Z.new_empty(len(Z), self.n_states)
        for stage in self.stages:
            z = Z[:, stage.rows]
            for source, block in stage.terms:
                block.add_to_(z, X[:, source])
            X[:, stage.target] = stage.activation(z)
        return X

    def substitute_back_(self, slopes: Slopes, X_bar: Tensor) -> Tensor:
        """Z̄ = (∂φ/∂z)ᵀ (Z̄ A + X̄) by one pass in reverse over a triangular plan; X̄ is overwritten."""
        Z_bar = X_bar.new_empty(len(X_bar), self.n_pre)
        for number, stage in reversed([*enumerate(self.stages)]):
            z_bar = slopes.pull_back(number, X_bar[:, stage.target])
            Z_bar[:, stage.rows] = z_bar
            for source, block in stage.terms:
                X_bar[:, source] += block.apply_transpose(z_bar)
        return Z_bar

    def product(self, X: Tensor) -> Tensor:
        """X Aᵀ."""
        Z = X.new_zeros(len(X), self.n_pre)
        for stage in self.stages:
            for source, block in stage.terms:
                block.add_to_(Z[:, stage.rows], X[:, source])
        return Z

    def transposed_product(self, Z_bar: Tensor) -> Tensor:
        """Z̄ A."""
        X_bar = Z_bar.new_zeros(len(Z_bar), self.n_states)
        for stage in self.stages:
            for source, block in stage.terms:
                X_bar[:, source] += block.apply_transpose(Z_bar[:, stage.rows])
        return X_bar

    def activate(self, Z: Tensor) -> Tensor:
        """φ(Z)."""
        return self._by_stage(lambda phi, z: phi(z), Z)

    def derivative(self, Z: Tensor) -> Slopes:
        """What gradients through φ at Z need; Z is kept."""
        return Slopes.at(self, Z)

    def spread(self, Z: Tensor, radius: Tensor) -> Tensor:
        """A bound on |φ(Z') - φ(Z)| for all |Z' - Z| <= radius."""
        return self._by_stage(lambda phi, z, r: phi.spread(z, r), Z, radius)

    def _by_stage(self, function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
        """What ``function`` of each stage's φ makes of its pre-activations."""
        result = arrays[0].new_empty(len(arrays[0]), self.n_states)
        for stage in self.stages:
            result[:, stage.target] = function(stage.activation, *(array[:, stage.rows] for array in arrays))
        return result


class Slopes:
    """The derivative of φ at pre-activations Z (m, n_pre), stage by stage, in working order.

    Of an elementwise φ, φ'(z) is kept, of a block z: it is differentiated when it is asked for.
    """

    def __init__(self, stages: Sequence[Stage], kept: Sequence[Tensor]) -> None:
        self._stages, self._kept = stages, kept

    @classmethod
    def at(cls, plan: Plan, Z: Tensor) -> Slopes:
        """Those at Z."""
        parts = [(stage.activation, Z[:, stage.rows]) for stage in plan.stages]
        return cls(plan.stages, [z.clone() if isinstance(phi, Block) else phi.derivative(z) for phi, z in parts])

    def pull_back(self, number: int, x_bar: Tensor) -> Tensor:
        """z̄ = (∂φ/∂z)ᵀ x̄ of the stage of that number."""
        phi, kept = self._stages[number].activation, self._kept[number]
        return phi.pull_back(kept, x_bar) if isinstance(phi, Block) else kept * x_bar

    @property
    def matrix(self) -> Tensor:
        """φ'(Z), (m, n), where all φ are elementwise."""
        order = sorted(range(len(self._stages)), key=lambda number: self._stages[number].rows.start)
        return torch.cat([self._kept[number] for number in order], dim=1)


def plan_by_groups(groups: Sequence[StateGroup], blocks: Mapping[tuple[str, str], LinearMap]) -> Plan:
    """One stage for each group, in an order of substitution if the groups have one, with the blocks of A as they are.

    The groups stand in the order of the states; blocks are keyed (row group, column group), zero ones left out.
    """
    targets, rows = slices_of(groups), pre_slices_of(groups)
    activations = {group.name: group.activation for group in groups}
    sources: dict[str, list[str]] = {name: [column for row, column in blocks if row == name] for name in targets}
    order = dependency_order(sources)
    stages = tuple(
        Stage(targets[name], rows[name], activations[name], tuple((targets[h], blocks[name, h]) for h in sources[name]))
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
        stages.append(Stage(slice(start, stop), slice(start, stop), activations[order[start]], terms))
    return Plan(tuple(stages), triangular=True, order=torch.from_numpy(order))
