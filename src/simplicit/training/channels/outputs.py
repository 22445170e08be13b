r"""The values of all layers together, on their supports, by what the network puts out.

Layer after layer, errors are weighed one by one, as if those of different rows and positions did not add up. On the
supports that were found, the values θ of all layers can answer for the outputs together. With the weights W̄ that the
rows' own least squares gave, and with what these say of a row that leaves them, this lowers

    F(θ) = ‖y(θ) − y⁰‖² + Σᵢ sᵢ [(wᵢ − w̄ᵢ)ᵀH(wᵢ − w̄ᵢ) + n(cᵢ − c̄ᵢ)²]

over samples, rows i of all layers, and the means c = b + wᵀm of their results where a constant is free (m: the mean
patch). Both terms are in units of the outputs' squared error (:mod:`~simplicit.training.channels.sensitivity`): what
the outputs ask for has the weight of what the layers knew, which is what keeps a thousand samples from being learnt by
heart. F is not convex, as y is not linear, but nearly so this near to W̄: a few steps of conjugate gradients are made,
with the second term as preconditioner and with step lengths from a secant of the outputs. A step that would not lower F
is not made, so that F never rises.

A row's result then moves by Φδ with δ = w − w̄. The same is said of its targets, t + Φδ: given these, the row is ridge
as before, convex, solved and proved like all others, and its least values on the support are w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import lookups_checked
from simplicit.machine import one_thread_each, side_by_side
from simplicit.network.graph import NetworkGraph
from simplicit.progress import counted
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.parts import Part, changed_in, part_of
from simplicit.training.problem import LeastSquares

#: The first secant goes so much of the step that the layers alone would make; the outputs know of more.
FIRST_TRIAL = 0.1
#: So many secants at most are taken for the length of a step.
SECANTS = 6
#: The rows of a layer are factorised where that takes no more bytes, or else the diagonal of H has to do.
FACTORS = 2**28


@dataclass(frozen=True, eq=False)
class Block:
    """What is free of a layer: weights on their supports, and the means of the results where a constant is free.

    ``problems`` are those of its groups, ``values`` (g, r, d) the weights W̄, ``sensitivities`` s (rows,), ``mean`` m
    (g, d) and ``mass`` n (g, 1).
    """

    layer: ChannelLayer
    problems: Sequence[LeastSquares]
    values: Array
    sensitivities: Array
    mean: Array
    mass: Array

    @property
    def size(self) -> int:
        """The numbers of a step: δ, zero off the supports, and those of the means."""
        return self.values.size + self.layer.rows

    @cached_property
    def support(self) -> Array:
        return np.asarray(self.values != 0)

    @cached_property
    def shift(self) -> tuple[str, int, Part | None] | None:
        """The placeholder of the constant, its sign, and its part; None where none is free."""
        layer = self.layer
        if layer.norm is not None:
            return layer.norm.mean, -1, None
        return (layer.bias, 1, layer.last.bias_part) if layer.bias is not None and layer.free_bias else None

    def split(self, step: Array) -> tuple[Array, Array]:
        """δ (g, r, d) and the means (g, r) of a step (size,)."""
        g, r, d = self.values.shape
        return step[: g * r * d].reshape(g, r, d), step[g * r * d :].reshape(g, r)

    def constants(self, now: Mapping[str, Tensor], step: Array) -> dict[str, Tensor]:
        """What a step from W̄ makes of the constants that the layer has ``now``, by placeholder."""
        delta, means = self.split(step)
        found = self.layer.changed(torch.from_numpy(self.values + delta), now[self.layer.weight])
        if self.shift is not None:
            name, sign, part = self.shift
            moved = sign * (means - np.einsum("grd,gd->gr", delta, self.mean)).ravel()
            whole = now[name]
            found[name] = changed_in(part, whole, part_of(part, whole) + torch.from_numpy(moved).to(whole.dtype))
        return found

    def gradient(self, found: Mapping[str, Tensor]) -> Array:
        """Derivatives by the placeholders as those by a step, (size,)."""
        by_weight = self.layer.kernel(found[self.layer.weight]).double().numpy()
        by_mean = np.zeros(self.values.shape[:2])
        if self.shift is not None:
            name, sign, part = self.shift
            by_mean = sign * part_of(part, found[name]).double().numpy().reshape(by_mean.shape)
            by_weight = by_weight - by_mean[:, :, None] * self.mean[:, None]
        return np.concatenate([(by_weight * self.support).ravel(), by_mean.ravel()])

    def weighed(self, step: Array) -> Array:
        """The step times the matrix of the second term, on the supports."""
        delta, means = self.split(step)
        own = np.stack([one @ problem.gram for one, problem in zip(delta, self.problems, strict=True)])
        return self._scaled(own * self.support, means * self.mass, self.sensitivities)

    def solved(self, gradient: Array) -> Array:
        """The step with which the second term has a gradient, exactly or by the diagonal alone."""
        delta, means = self.split(gradient)
        if self._factors is None:
            diagonals = np.stack([problem.gram.diagonal() for problem in self.problems])
            own = delta / diagonals[:, None] * self.support
        else:
            own = np.zeros_like(delta)
            for place, factor in self._factors.items():
                own[place][self.support[place]] = cho_solve(factor, delta[place][self.support[place]])
        return self._scaled(own, means / np.maximum(self.mass, np.finfo(float).tiny), 1 / self.sensitivities)

    def _scaled(self, delta: Array, means: Array, by: Array) -> Array:
        by = by.reshape(means.shape)
        return np.concatenate([(delta * by[:, :, None]).ravel(), (means * by).ravel() * (self.shift is not None)])

    @cached_property
    def _factors(self) -> dict[tuple[int, int], Any] | None:
        """A factorisation of each row's H on its support, by group and row; None where they would take too much."""
        if 8 * float(np.square(self.support.sum(axis=2, dtype=float)).sum()) > FACTORS:
            return None
        return {
            (g, r): cho_factor(self.problems[g].gram[np.ix_(own, own)])
            for g, rows in enumerate(self.support)
            for r, own in enumerate(rows)
            if own.any()
        }

    def moved(self, step: Array) -> list[LeastSquares]:
        """The problems with targets that move as the results do."""
        found = []
        for delta, problem in zip(self.split(step)[0], self.problems, strict=True):
            more = delta @ problem.gram
            energy = problem.energy + np.einsum("ij,ij->i", 2 * problem.cross + more, delta)
            found.append(replace(problem, cross=problem.cross + more, energy=np.maximum(energy, 0.0)))
        return found


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a student on samples in ``batches``, against the baseline's, as the ``blocks`` take a step.

    ``changed`` are the student's constants to begin with, and batches are gone through on so many ``workers``.
    """

    graph: NetworkGraph
    batches: Sequence[Tensor]
    blocks: Sequence[Block]
    changed: Mapping[str, Tensor]
    workers: int = 1

    def constants(self, step: Array) -> dict[str, Tensor]:
        """All that has changed after a step."""
        changed = dict(self.changed)
        for block, own in zip(self.blocks, self._split(step), strict=True):
            changed |= block.constants({**self.graph.constants, **changed}, own)
        return changed

    def fitted(self, passes: int) -> tuple[Array, list[float]]:
        """The step after at most so many passes, and F before each and at the end, which never rises."""
        step = np.zeros(sum(block.size for block in self.blocks))
        targets = self._outputs(self.graph.constants)
        outputs, gradient = self._differentiated(step, targets)
        losses, trial = [_squares(outputs, targets)], FIRST_TRIAL
        solved = self._each("solved", gradient)
        direction = -solved
        for _ in counted(range(passes), "all layers together", passes):
            length = self._length(step, outputs, direction, -float(gradient @ direction), trial)
            for shorter in (1.0, 0.25):
                further = step + shorter * length * direction
                ahead, steeper = self._differentiated(further, targets)
                loss = _squares(ahead, targets) + float(further @ self._each("weighed", further))
                if loss < losses[-1]:
                    break
            else:
                break
            known, solved = float(gradient @ solved), self._each("solved", steeper)
            turn = max(0.0, float(solved @ (steeper - gradient)) / known)
            step, outputs, gradient, direction = further, ahead, steeper, turn * direction - solved
            losses, trial = [*losses, loss], shorter * length
        return step, losses

    def _length(self, step: Array, outputs: Sequence[Tensor], direction: Array, slope: float, trial: float) -> float:
        """How far to go to where F is least by a secant of the outputs; 0 where it does not fall, or none is finite.

        A secant that is much longer than what it says is of other outputs than those on the way: the next one is as
        long as it said.
        """
        stiffness, length = float(direction @ self._each("weighed", direction)), 0.0
        for _ in range(SECANTS if slope > 0 else 0):
            tried = self._outputs({**self.graph.constants, **self.constants(step + trial * direction)})
            curvature = _squares(tried, outputs) / trial**2 + stiffness
            length = slope / curvature if 0 < curvature < np.inf else 0.0
            if length >= trial / 4:
                break
            trial = length or trial / 100
        return length

    def moved(self, step: Array) -> list[list[LeastSquares]]:
        """The problems of all blocks, with targets that move as their results do."""
        return [block.moved(own) for block, own in zip(self.blocks, self._split(step), strict=True)]

    def split(self, step: Array) -> list[tuple[Array, Array]]:
        """δ and the means of each block."""
        return [block.split(own) for block, own in zip(self.blocks, self._split(step), strict=True)]

    def at(self, values: Mapping[str, Array], step: Array) -> Array:
        """The step to these values (g, r, d) by the names of the layers, with the means of another step."""
        parts = zip(self.blocks, self.split(step), strict=True)
        found = [((values[block.layer.name] - block.values).ravel(), means.ravel()) for block, (_, means) in parts]
        return np.concatenate([one for pair in found for one in pair])

    def _split(self, step: Array) -> list[Array]:
        return np.split(step, np.cumsum([block.size for block in self.blocks])[:-1])

    def _each(self, name: str, step: Array) -> Array:
        """What each block makes of its part."""
        parts = zip(self.blocks, self._split(step), strict=True)
        return np.concatenate([getattr(block, name)(own) for block, own in parts])

    def _outputs(self, constants: Mapping[str, Tensor]) -> list[Tensor]:
        """Of all batches."""

        def of_batch(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return _flat(self.graph.module, constants, inputs)

        with one_thread_each():
            return list(counted(side_by_side(of_batch, self.batches, self.workers), "outputs", len(self.batches)))

    def _differentiated(self, step: Array, targets: Sequence[Tensor]) -> tuple[list[Tensor], Array]:
        """The outputs after a step, and half the gradient of F there."""
        constants = {**self.graph.constants, **self.constants(step)}
        leaves = _leaves(self.blocks, constants)
        lowered = {block.layer.node: leaves[norm.mean] for block in self.blocks if (norm := block.layer.norm)}
        names, wanted = list(leaves), [*leaves.values()]
        means = {block.layer.norm.mean for block in self.blocks if block.layer.norm is not None}
        constants |= {name: leaf for name, leaf in leaves.items() if name not in means}

        def of_batch(place: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad():
                found = _flat(_Lowered(self.graph, lowered).run, constants, self.batches[place])
                loss = (found - targets[place]).square().sum() / 2
                return found.detach(), torch.autograd.grad(loss, wanted, allow_unused=True)

        total = {name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items()}
        outputs = []
        with one_thread_each():
            pairs = side_by_side(of_batch, range(len(self.batches)), self.workers)
            for found, gradients in counted(pairs, "gradients", len(self.batches)):
                outputs.append(found)
                for name, one in zip(names, gradients, strict=True):
                    if one is not None:
                        total[name] += one
        by_blocks = np.concatenate([block.gradient(total) for block in self.blocks])
        return outputs, by_blocks + self._each("weighed", step)


class _Lowered(Interpreter):
    """Runs the graph with a leaf taken off the channels of some nodes, where torch does not differentiate by μ."""

    def __init__(self, graph: NetworkGraph, leaves: Mapping[Node, Tensor]) -> None:
        super().__init__(graph.module)
        self._leaves = leaves

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        return result if n not in self._leaves else result - self._leaves[n].reshape(-1, *[1] * (result.ndim - 2))


def _leaves(blocks: Sequence[Block], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is differentiated by, by placeholder: weights and biases, and zeros that stand for the means of norms."""
    leaves: dict[str, Tensor] = {}
    for block in blocks:
        layer = block.layer
        weight = leaves.get(layer.weight, constants[layer.weight].detach().requires_grad_())
        leaves |= dict.fromkeys(layer.placeholders, weight)
        if block.shift is not None and block.shift[0] not in leaves:
            value = constants[block.shift[0]].detach()
            leaves[block.shift[0]] = (value if layer.norm is None else torch.zeros_like(value)).requires_grad_()
    return leaves


def _flat(run: Callable[..., Tensor], constants: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The outputs of a batch, (b, q)."""
    with lookups_checked():
        outputs = run(*constants.values(), inputs)
    return outputs.reshape(len(outputs), -1)


def _squares(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The squared distance of outputs."""
    return sum(float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True))
