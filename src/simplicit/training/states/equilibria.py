r"""The equilibria that a cell is fitted on: its states, what of its M are weights, and the room that its balls have.

s > 0, one number for each state, are the units of the balls: with L|A| s <= κ s on every loop a cell is well-posed
(:mod:`simplicit.training.states.loops`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack
from torch import Tensor

from simplicit.checks import refused
from simplicit.implicit import ImplicitModel
from simplicit.implicit.blockwise import coupling_of
from simplicit.implicit.groups import OUTPUT, StateGroup
from simplicit.network.cells import CellCapture
from simplicit.rows.batch import Array, Mask
from simplicit.training.states.ties import Tie, state_classes, ties_of

# Wiring takes at most 1/_ROOM of a ball with weights, where s can be chosen so within so many rounds.
_ROOM, _ENOUGH, _ROUNDING = 1.25, 200, 1e-12


@dataclass(frozen=True, eq=False)
class LoopData:
    """The equilibria of a cell: its ``model`` in float64, features [X U], targets [Z Y], and s of every state, (n,).

    ``ties`` are the rows of a group that share weights, where its rows do.
    """

    captured: CellCapture
    model: ImplicitModel
    features: Array
    targets: Array
    s: Array
    ties: Mapping[str, Sequence[Tie]]

    @classmethod
    def of(cls, captured: CellCapture, U: Tensor, *, tied: bool) -> Self:
        """Those at inputs U (m, p); ``tied`` says whether rows may share weights."""
        found, model = captured.states(U), captured.model.astype(np.float64)
        ties = dict[str, list[Tie]]()
        if tied:
            ties = ties_of(captured.traced(), [*_rows_of(model).items()], model.n_states + model.n_inputs)
        s = _scales(model, [one for group in ties.values() for one in group])
        return cls(captured, model, np.hstack([found.X, found.U]), np.hstack([found.Z, found.Y]), s, ties)

    @property
    def inputs(self) -> Array:
        """U, (m, p)."""
        return self.features[:, self.model.n_states :]

    @cached_property
    def bias(self) -> Array:
        """The constants [b d], (n_pre + q,)."""
        return np.concatenate([self.model.state_bias, self.model.output_bias]).astype(np.float64)

    @cached_property
    def columns(self) -> Array:
        """What the columns of [X U] are divided by, (n + p,)."""
        return np.concatenate([self.s, np.ones(self.model.n_inputs)])

    @cached_property
    def rows(self) -> Mapping[str, slice]:
        """The rows of M of every group of states and of ``"output"``."""
        return _rows_of(self.model)

    @cached_property
    def wiring(self) -> csr_array:
        """The entries of M that are no weights, (n_pre + q, n + p)."""
        return self.captured.wiring()

    @cached_property
    def weights(self) -> csr_array:
        """The entries of M that are weights, (n_pre + q, n + p)."""
        found = csr_array(self.model.matrix - self.wiring)
        found.eliminate_zeros()
        return found

    def taken(self, name: str, inside: Mask) -> Array:
        """What wiring takes up of the balls of a group's rows, for the states that are ``inside`` its loop."""
        return np.asarray(abs(self.wiring[self.rows[name]]) @ np.where(inside, self.columns, 0.0))

    def radii(self, name: str, inside: Mask, kappa: float) -> Array:
        """κ sᵢ/Lᵢ of the rows of a group, less what wiring takes up, or what a G leaves of κ s."""
        group, taken = self.group(name), self.taken(name, inside)
        s, G = self.s[self.model.slices[name]], coupling_of(group)
        if G is None:
            own = s if group.pointwise else np.full(group.pre_size, s.min())
            return np.asarray(kappa * (own / group.activation.slope) - taken)
        base = abs(self.weights[self.rows[name]]) @ np.where(inside, self.columns, 0.0)
        used, coo, share = G @ base, G.tocoo(), np.full(len(base), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(used > 0, np.maximum(kappa * s - G @ taken, 0.0) / used, np.inf)
        np.minimum.at(share, coo.col, left[coo.row])
        share[~np.isfinite(share)] = 0.0
        return np.where(base > 0, base * share, 1.0)  # without weights on the loop any ball holds

    def group(self, name: str) -> StateGroup:
        """The group of a name."""
        return next(one for one in self.model.groups if one.name == name)

    def with_rows(self, parts: Mapping[str, tuple[csr_array, Array]]) -> ImplicitModel:
        """The model with coefficients (r, n + p), in the units of the columns, and constants of some groups of rows.

        All others are the baseline's.
        """
        inverse = diags_array(1.0 / self.columns)
        bias, found = self.bias.copy(), list[csr_array]()
        for name, at in self.rows.items():
            if name in parts:
                coefficients, bias[at] = parts[name]
                found.append(csr_array(coefficients @ inverse + self.wiring[at]))
            else:
                found.append(csr_array(self.model.matrix[at]))
        whole, n_pre = csr_array(vstack(found, format="csr")), self.model.n_pre
        return self.model.with_matrix(whole, state_bias=bias[:n_pre], output_bias=bias[n_pre:])


def _rows_of(model: ImplicitModel) -> dict[str, slice]:
    return {**model.pre_slices, OUTPUT: slice(model.n_pre, model.n_pre + model.n_outputs)}


def _scales(model: ImplicitModel, ties: Sequence[Tie]) -> Array:
    """s of every state: what proves its loop, or nearly would; 1 where it lies on none.

    States whose rows are tied have the same.
    """
    s, states = np.ones(model.n_states), np.full(model.n_pre + model.n_outputs, -1)
    for group in model.groups:
        if group.pointwise:
            states[model.pre_slices[group.name]] = np.arange(model.n_states)[model.slices[group.name]]
    classes = state_classes(ties, states, model.n_states)
    for cycle in model.state_equation.cycles:
        at = np.concatenate([np.arange(model.n_states)[model.slices[group.name]] for group in cycle.groups])
        s[at] = cycle.vector_on(np.unique(classes[at], return_inverse=True)[1]) if ties else cycle.vector
    return s


def with_room(data: LoopData, kappa: float) -> LoopData:
    """The same with s so large, where need be, that wiring on a loop fits into the balls and leaves room for weights.

    InputError is raised where no s does.
    """
    cycles, states = data.model.state_equation.cycles, np.arange(data.model.n_states)
    s = data.s.copy()
    for cycle in cycles:
        inside = np.zeros(data.model.n_states + data.model.n_inputs, dtype=bool)
        for group in cycle.groups:
            inside[states[data.model.slices[group.name]]] = True
        if cycle.bounds.upper < 1.0 and cycle.contraction.rho <= kappa:
            continue
        for _ in range(_ENOUGH):
            before = s.copy()
            for group in cycle.groups:
                at, rows = data.model.slices[group.name], data.rows[group.name]
                taken = abs(data.wiring[rows]) @ np.where(
                    inside, np.concatenate([s, np.ones(data.model.n_inputs)]), 0.0
                )
                free, G = np.diff(data.weights[rows].indptr) > 0, coupling_of(group)
                if G is not None:
                    taken, free = G @ taken / group.activation.slope, G @ free.astype(np.float64) > 0
                needed = np.where(free, _ROOM, 1.0) * group.activation.slope * taken / kappa * (1.0 + _ROUNDING)
                s[at] = np.maximum(s[at], needed if group.pointwise or G is not None else needed.max(initial=0.0))
            if np.array_equal(s, before):
                break
        else:
            raise refused(
                "net",
                "the cell's own connections that have no weights (a skip connection, a scaled state) take up the whole "
                "ball, so that no weights can be proved well-posed",
            )
    return replace(data, s=s)
