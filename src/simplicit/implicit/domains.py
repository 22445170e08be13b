r"""Boxes that a model's state equation maps into themselves, and the model with its blocks clipped to them.

For inputs between two ends, write F(X) for the box around φ(A x + B u + b), x in a box X, by interval arithmetic. If
F(X) lies in X, every iteration that begins in X stays there, and there is an equilibrium in X (Brouwer). Two ways lead
to such a box:

- *from above*: X₀ is everything, X ← F(X). Each of them holds every equilibrium that there is, and is mapped into
  itself. A gate is between 0 and 1 and a tanh between -1 and 1, whatever goes in, so that after a few steps all states
  of a gated recurrent unit are bounded;
- *from below*: where that leaves an end infinite (c = f c + i g of an LSTM), it begins at 0 and grows, X ← F(X) a
  little wider, until X holds F(X). There may be equilibria outside; the box is what is known.

Products of states, which have no Lipschitz constant on all of R, have one on what a box makes of their z. A model whose
blocks are clipped to it (:attr:`simplicit.implicit.groups.Block.domain`) is the same in the box, and is proved
well-posed, or not, like any other (:mod:`simplicit.implicit.blockwise`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.groups import INPUT, OUTPUT, Block, StateGroup
from simplicit.implicit.maps import LinearMap
from simplicit.implicit.model import ImplicitModel

# Steps from above, and from below until a box is given up; these grow faster than F(X), and are tried a little wider.
_DOWN, _UP, _FASTER, _WIDER = 30, 100, 2.0, 0.05
# Ends that move by less are taken as settled; beyond this size a box is no use.
_SETTLED, _LARGEST = 1e-3, 1e8
# Sums of float64 are widened by this share; a domain is a little wider than what is proved, for float32.
_ROUNDED, _MARGIN = 1e-9, 1e-4

Box = tuple[Tensor, Tensor]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Bounded:
    """A model whose blocks without a Lipschitz constant are clipped to boxes that it does not leave.

    ``unbounded`` names a block whose box was not found, if there is one; then none is clipped.
    """

    model: ImplicitModel
    unbounded: str | None = None


def bounded(model: ImplicitModel, inputs: tuple[Vector, Vector] | None) -> Bounded:
    """The model with domains for the blocks of its loops, for inputs between two ends, each (p,), or for all inputs.

    Domains that it has already are found anew.
    """
    model = _clipped(model, {})
    cycles = [group.name for cycle in model.state_equation.cycles for group in cycle.groups]
    needing = {group.name for group in model.groups if group.name in cycles and _needs(group)}
    if not needing:
        return Bounded(model)
    found = _Boxes(model, inputs)
    found.down(_DOWN)
    if not all(_finite(found.reached(name)) for name in needing) and not found.up(needing):
        missing = next(name for name in needing if not _finite(found.reached(name)))
        return Bounded(model, missing)
    domains = {name: found.reached(name) for name in needing}
    return Bounded(_clipped(model, domains))


def _needs(group: StateGroup) -> bool:
    return isinstance(group.activation, Block) and not math.isfinite(group.activation.slope)


def _finite(box: Box) -> bool:
    return bool(torch.isfinite(box[0]).all() and torch.isfinite(box[1]).all())


def _clipped(model: ImplicitModel, domains: Mapping[str, Box]) -> ImplicitModel:
    """The model with these domains of blocks, and no others."""
    groups, held = [], [one.activation.domain for one in model.groups if isinstance(one.activation, Block)]
    if not domains and all(domain is None for domain in held):
        return model
    for group in model.groups:
        phi, domain = group.activation, None
        if group.name in domains:
            low, high = domains[group.name]
            margin = _MARGIN * (1.0 + torch.maximum(low.abs(), high.abs()))
            domain = ((low - margin).numpy(), (high + margin).numpy())
        groups.append(replace(group, activation=replace(phi, domain=domain)) if isinstance(phi, Block) else group)
    return model.with_groups(groups)


class _Boxes:
    """A box of states of every group of a model, and of what they make of z."""

    def __init__(self, model: ImplicitModel, inputs: tuple[Vector, Vector] | None) -> None:
        infinite = np.full(model.n_inputs, math.inf)
        low, high = (-infinite, infinite) if inputs is None else inputs
        self._groups = model.groups
        self._inputs = torch.from_numpy(low), torch.from_numpy(high)
        self._bias = {name: torch.tensor(model.state_bias[at]).double() for name, at in model.pre_slices.items()}
        self._rows: dict[str, list[tuple[str, LinearMap, LinearMap]]] = {group.name: [] for group in model.groups}
        for (row, column), block in model.blocks.items():
            if row != OUTPUT:
                wide_block = block.astype(np.float64)
                self._rows[row].append((column, wide_block, wide_block.absolute()))
        everything = {group.name: torch.full((group.size,), math.inf, dtype=torch.float64) for group in model.groups}
        self.states: dict[str, Box] = {name: (-end, end) for name, end in everything.items()}

    def reached(self, name: str, states: Mapping[str, Box] | None = None) -> Box:
        """The box around z of a group, for states in a box."""
        states = self.states if states is None else states
        centre, radius = self._bias[name].clone(), torch.zeros_like(self._bias[name])
        size = centre.abs()
        for column, block, absolute in self._rows[name]:
            low, high = self._inputs if column == INPUT else states[column]
            known = torch.isfinite(low) & torch.isfinite(high)
            middle = torch.where(known, 0.5 * (low + high), 0.0)
            half = torch.where(known, torch.maximum(high - middle, middle - low), 0.0)
            centre += block.apply(middle[None])[0]
            radius += absolute.apply(half[None])[0]
            size += absolute.apply((middle.abs() + half)[None])[0]
            if not bool(known.all()):
                radius[absolute.apply((~known).double()[None])[0] > 0] = math.inf
        radius = radius + _ROUNDED * size
        return centre - radius, centre + radius

    def image(self, group: StateGroup, states: Mapping[str, Box] | None = None) -> Box:
        """The box around φ(z) of a group."""
        low, high = (end[None] for end in self.reached(group.name, states))
        found = group.activation.image(low, high)
        return found[0][0], found[1][0]

    def down(self, steps: int) -> None:
        """X ← F(X), group after group, until it settles."""
        for _ in range(steps):
            moved = False
            for group in reversed(self._groups):
                before, found = self.states[group.name], self.image(group)
                after = _met(before, found)
                self.states[group.name] = after
                moved = moved or any(_moved(*ends) for ends in zip(before, after, strict=True))
            if not moved:
                return

    def up(self, needing: set[str]) -> bool:
        """Grow infinite ends from 0 until F(X) lies in X; whether that came to an end, with finite z where needed."""
        top = dict(self.states)
        states = {name: (_finite_or_0(low), _finite_or_0(high)) for name, (low, high) in top.items()}
        for _ in range(_UP):
            wider = {name: _widened(box, top[name]) for name, box in states.items()}
            images = {group.name: _met(self.image(group, wider), top[group.name]) for group in self._groups}
            if all(_within(images[name], wider[name]) for name in images):
                self.states = wider
                self.down(_DOWN)
                return all(_finite(self.reached(name)) for name in needing)
            states = {name: _grown(states[name], images[name], top[name]) for name in images}
            if max(float(end.abs().max()) for box in states.values() for end in box) > _LARGEST:
                return False
        return False


def _finite_or_0(end: Tensor) -> Tensor:
    return torch.where(torch.isfinite(end), end, 0.0)


def _widened(box: Box, top: Box) -> Box:
    """A box a little wider where its ends are not known from above."""
    step = _WIDER * (torch.maximum(box[0].abs(), box[1].abs()) + 1e-6)
    low = torch.where(torch.isfinite(top[0]), box[0], box[0] - step)
    return low, torch.where(torch.isfinite(top[1]), box[1], box[1] + step)


def _within(inner: Box, outer: Box) -> bool:
    return bool((inner[0] >= outer[0]).all() and (inner[1] <= outer[1]).all())


def _met(first: Box, second: Box) -> Box:
    return torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])


def _grown(box: Box, image: Box, top: Box) -> Box:
    """A box that has grown towards its image, within what is known from above."""
    low = box[0] - _FASTER * (box[0] - image[0]).clamp(min=0.0)
    return _met((low, box[1] + _FASTER * (image[1] - box[1]).clamp(min=0.0)), top)


def _moved(before: Tensor, after: Tensor) -> bool:
    """Whether an end became finite, or moved by more than is worth another step."""
    newly = torch.isfinite(after) & ~torch.isfinite(before)
    return bool((newly | ((after - before).abs() > _SETTLED * (1.0 + after.abs()))).any())
