r"""The plan of an evaluation: the states cut into stages, each computed with one activation and a few products.

Where an order of substitution exists, among the groups or among the single states, the stages stand in that order and
one pass through them is exact. Otherwise there are *loops*: groups that depend on each other, directly or through
others (the strongly connected components of the groups). Loops and single groups have an order again, and one pass
through them is exact but for the loops, each of which is a fixed-point problem of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit.groups import Activation, Block, StateGroup, pre_slices_of, slices_of
from simplicit.implicit.maps import Csr, CsrMap, LinearMap
from simplicit.implicit.ordering import cycles_in_order, dependency_order, state_levels

Columns: TypeAlias = slice | Tensor
Term: TypeAlias = tuple[Columns, LinearMap]


@dataclass(frozen=True)
class Stage:
    """The states ``target``, which are φ of the pre-activations ``rows``, a drive and the sum of the terms.

    A term is map.apply(X[:, source]). ``rows`` are ``target`` where φ is elementwise in all stages.
    """

    target: slice
    rows: slice
    activation: Activation | Block
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Loop:
    """Groups that depend on each other: the stages of a plan from ``first`` on, as many as there are ``names``.

    ``plan`` is theirs alone: its stages are the same, with terms from each other only. Its states and pre-activations
    are ``states`` and ``rows`` of the whole; ``outside`` are the terms that come from other states, by the rows that
    they add to.
    """

    names: tuple[str, ...]
    first: int
    plan: Plan
    states: Columns
    rows: Columns
    outside: tuple[tuple[slice, Term], ...]


@dataclass(frozen=True)
class Plan:
    """Stages over columns in working order, which substitution follows, but for the stages of ``loops``.

    States X are (m, n) and pre-activations Z (m, ``n_pre``), samples first; n = n_pre unless there are blocks.
    ``order[k]`` is the state at working position k; None if that is state k, as it is where there are blocks.
    """

    stages: tuple[Stage, ...]
    loops: tuple[Loop, ...] = ()
    order: Tensor | None = None

    @property
    def triangular(self) -> bool:
        """Whether one pass of substitution is exact."""
        return not self.loops

    @cached_property
    def parts(self) -> tuple[int | Loop, ...]:
        """The numbers of stages outside of loops, and the loops, in the order of substitution."""
        starts = {loop.first: loop for loop in self.loops}
        inside = {loop.first + place for loop in self.loops for place in range(1, len(loop.names))}
        return tuple(starts.get(number, number) for number in range(len(self.stages)) if number not in inside)

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

    def substitute_(self, Z: Tensor, iterate: Callable[[Loop, Tensor], tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """X = φ(X Aᵀ + drive) by one pass; Z holds the drive, and then X Aᵀ + drive.

        ``iterate`` gives Z and X of a loop from its drive.
        """
        X = Z.new_empty(len(Z), self.n_states)
        for part in self.parts:
            if isinstance(part, Loop):
                assert iterate is not None
                for rows, (source, block) in part.outside:
                    Z[:, rows] += block.apply(X[:, source])
                Z[:, part.rows], X[:, part.states] = iterate(part, Z[:, part.rows].contiguous())
                continue
            stage = self.stages[part]
            z = Z[:, stage.rows]
            for source, block in stage.terms:
                block.add_to_(z, X[:, source])
            X[:, stage.target] = stage.activation(z)
        return X

    def substitute_back_(
        self, slopes: Slopes, X_bar: Tensor, iterate: Callable[[Loop, Slopes, Tensor], Tensor] | None = None
    ) -> Tensor:
        """Z̄ = (∂φ/∂z)ᵀ (Z̄ A + X̄) by one pass in reverse; X̄ is overwritten.

        ``iterate`` gives Z̄ of a loop from its slopes and its X̄.
        """
        Z_bar = X_bar.new_empty(len(X_bar), self.n_pre)
        for part in reversed(self.parts):
            if isinstance(part, Loop):
                assert iterate is not None
                inner = slopes.of(part)
                Z_bar[:, part.rows] = iterate(part, inner, X_bar[:, part.states].contiguous())
                for rows, (source, block) in part.outside:
                    X_bar[:, source] += block.apply_transpose(Z_bar[:, rows])
                continue
            stage = self.stages[part]
            z_bar = slopes.pull_back(part, X_bar[:, stage.target])
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
        X = Z.new_empty(len(Z), self.n_states)
        for stage in self.stages:
            X[:, stage.target] = stage.activation(Z[:, stage.rows])
        return X

    def derivative(self, Z: Tensor) -> Slopes:
        """What gradients through φ at Z need; Z is kept."""
        return Slopes.at(self, Z)

    def spread(self, Z: Tensor, radius: Tensor, X: Tensor, dtype: torch.dtype) -> Tensor:
        """A bound on |φ(Z') - φ(Z)| for all |Z' - Z| <= radius; for a block on |φ(Z') - X|, X computed in ``dtype``."""
        result = Z.new_empty(len(Z), self.n_states)
        for stage in self.stages:
            phi, z, r = stage.activation, Z[:, stage.rows], radius[:, stage.rows]
            spread = phi.spread(z, r, X[:, stage.target], dtype) if isinstance(phi, Block) else phi.spread(z, r)
            result[:, stage.target] = spread
        return result


@dataclass(frozen=True, eq=False)
class Slopes:
    """The derivative of φ at pre-activations Z (m, n_pre), stage by stage, in working order.

    Of an elementwise φ, φ'(z) is ``kept``, of a block z: it is differentiated when it is asked for.
    """

    stages: Sequence[Stage]
    kept: Sequence[Tensor]
    _backs: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def at(cls, plan: Plan, Z: Tensor) -> Slopes:
        """Those at Z."""
        parts = [(stage.activation, Z[:, stage.rows]) for stage in plan.stages]
        return cls(plan.stages, [z.clone() if isinstance(phi, Block) else phi.derivative(z) for phi, z in parts])

    def of(self, loop: Loop) -> Slopes:
        """Those of a loop's stages."""
        return Slopes(loop.plan.stages, self.kept[loop.first : loop.first + len(loop.names)])

    def samples(self, rows: slice | Tensor) -> Slopes:
        """Those of some samples."""
        return Slopes(self.stages, [each[rows] for each in self.kept])

    def pull_back(self, number: int, x_bar: Tensor) -> Tensor:
        """z̄ = (∂φ/∂z)ᵀ x̄ of the stage of that number."""
        phi, kept = self.stages[number].activation, self.kept[number]
        if not isinstance(phi, Block):
            return kept * x_bar
        if number not in self._backs:
            self._backs[number] = phi.linearised(kept)
        return self._backs[number](x_bar)

    def back(self, X_bar: Tensor) -> Tensor:
        """Z̄ = (∂φ/∂z)ᵀ X̄ of all stages, (m, n) to (m, n_pre)."""
        Z_bar = X_bar.new_empty(len(X_bar), max((stage.rows.stop for stage in self.stages), default=0))
        for number, stage in enumerate(self.stages):
            Z_bar[:, stage.rows] = self.pull_back(number, X_bar[:, stage.target])
        return Z_bar

    def times(self, M: Tensor) -> Tensor:
        """∂φ/∂z M for a matrix M (n_pre, k), sample by sample, (m, n, k)."""
        size = max((stage.target.stop for stage in self.stages), default=0)
        result = M.new_empty(len(self.kept[0]), size, M.shape[1])
        for stage, kept in zip(self.stages, self.kept, strict=True):
            phi, part = stage.activation, M[stage.rows]
            if isinstance(phi, Block):
                result[:, stage.target] = phi.jacobian(kept).to(M.dtype) @ part
            else:
                result[:, stage.target] = kept.to(M.dtype)[:, :, None] * part
        return result


def plan_by_groups(groups: Sequence[StateGroup], blocks: Mapping[tuple[str, str], LinearMap]) -> Plan:
    """One stage for each group, in an order of substitution but for loops, with the blocks of A as they are.

    The groups stand in the order of the states; blocks are keyed (row group, column group), zero ones left out.
    """
    targets, rows = slices_of(groups), pre_slices_of(groups)
    activations = {group.name: group.activation for group in groups}
    sources: dict[str, list[str]] = {name: [] for name in targets}
    for row, column in blocks:
        sources[row].append(column)

    def stage(name: str) -> Stage:
        terms = tuple((targets[h], blocks[name, h]) for h in sources[name])
        return Stage(targets[name], rows[name], activations[name], terms)

    order = dependency_order(sources)
    if order is not None:
        return Plan(tuple(map(stage, order)))
    parts = cycles_in_order(sources)
    firsts = np.cumsum([0, *(len(names) for names, _ in parts)]).tolist()
    loops = tuple(
        _loop(groups, blocks, names, first) for (names, cyclic), first in zip(parts, firsts, strict=False) if cyclic
    )
    return Plan(tuple(map(stage, chain.from_iterable(names for names, _ in parts))), loops)


def _loop(
    groups: Sequence[StateGroup], blocks: Mapping[tuple[str, str], LinearMap], names: tuple[str, ...], first: int
) -> Loop:
    """The loop of the groups of some names."""
    targets, rows, own = slices_of(groups), pre_slices_of(groups), [one for one in groups if one.name in names]
    inner, inner_rows = slices_of(own), pre_slices_of(own)
    outside = tuple((rows[r], (targets[c], block)) for (r, c), block in blocks.items() if r in names and c not in names)
    stages = tuple(
        Stage(
            inner[group.name],
            inner_rows[group.name],
            group.activation,
            tuple((inner[h], block) for (r, h), block in blocks.items() if r == group.name and h in names),
        )
        for group in own
    )
    states, pre = _columns([targets[name] for name in inner]), _columns([rows[name] for name in inner])
    return Loop(tuple(inner), first, Plan(stages), states, pre, outside)


def _columns(parts: Sequence[slice]) -> Columns:
    """Slices one after the other, as one slice where they are."""
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return torch.cat([torch.arange(part.start, part.stop) for part in parts])


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
    return Plan(tuple(stages), order=torch.from_numpy(order))
