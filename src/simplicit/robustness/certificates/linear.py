r"""Certificate (c): margins by linear relaxation, run backwards over a box of inputs, on bounds found the same way.

A functional f = v·x + w·u + c is bounded from below by replacing states from the last to the first (Zhang et al.,
*CROWN*, 2018). With the lines of every state on its bounds of z (:mod:`~simplicit.robustness.certificates.lines`)

    vᵢ xᵢ >= vᵢ (kᵢ zᵢ + hᵢ),   the lower line where vᵢ >= 0, the upper one where vᵢ < 0,

and zᵢ = Aᵢ x + Bᵢ u + bᵢ, the coefficient of xᵢ is gone and others have changed. Where A is triangular none is left
after one pass through the stages, and f >= w·u₀ - |w|·r + c. Where A has cycles the equation holds all the same, so
that every substitution is sound; the coefficients that are left after one are bounded on the boxes of x, they shrink as
A contracts, and the best bound of all substitutions counts.

A block has no lines: its outputs are constants between their bounds, and replacing ends there.

Every slope is sound, so that slopes may be chosen for each functional by gradient ascent on its bound.

Margins are bounded so at last, and z before: stage after stage, its bounds are those of (b) on the states found so far,
intersected with lower bounds of z and of -z. Where A has cycles, one such round follows those of (b): each bound is
sound whatever the others are.

What a pass does not meet costs nothing: stages whose coefficients are all zero are passed over, the lines of a stage
are made once its bounds are settled, and functionals are taken so many at a time that their coefficients fit into
memory.

Rounding. A pass sums products. With z̄ the coefficients that z had, all that they can have lost is at most
γ (|z̄|·(|A| X + |B| U + |b|) + |v|·X + |w|·U + |x̄|·|h|), X and U bounds on |x| and |u|: a few products for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups import Activation, Block
from simplicit.implicit.plan import Stage
from simplicit.robustness.box import centred
from simplicit.robustness.certificates.interval import Enclosure, Neighbourhood
from simplicit.robustness.certificates.lines import Lines, extremes, standard_slopes
from simplicit.robustness.certificates.prepared import UNDERFLOW
from simplicit.robustness.labels import with_labels

# Where A has cycles: at most so many substitutions, with bounds taken after 1, 2, 4, … of them. Coefficients shrink by
# λ_pf each time: at 0.8, by a million over all of them.
_SUBSTITUTIONS = 64
# Adam's, in units of slopes: a few steps reach from one end of a ReLU's slopes to the other.
_LEARNING_RATE, _DECAY = 0.25, 0.9
# A stage with more loose states than this keeps its bounds of (b): one sample's functionals of sharper ones would take
# 2 x 4096 numbers for every state. Functionals are taken together as long as their coefficients are so many numbers.
_LARGEST_STAGE, _NUMBERS = 4096, 2**23


def linear_margins(neighbourhood: Neighbourhood, enclosure: Enclosure, labels: Tensor, steps: int = 0) -> Tensor:
    """Return the margins of (c), (m, q), infinite at the labels, on bounds of :func:`sharpened`."""
    prepared = neighbourhood.prepared
    functionals = Functionals(
        x=prepared.C[labels][:, None] - prepared.C,
        u=prepared.D[labels][:, None] - prepared.D if bool(prepared.D.any()) else None,
        constant=prepared.d[labels][:, None] - prepared.d,
    )
    bounds = Relaxation(neighbourhood, enclosure).lower_bounds(functionals, len(prepared.stages), steps)
    return with_labels(bounds, labels, torch.inf)


def sharpened(neighbourhood: Neighbourhood, enclosure: Enclosure, steps: int = 0) -> Enclosure:
    """Return ``enclosure`` with bounds of z by linear relaxation, stage after stage, where they are narrower."""
    found, made = enclosure.copy(), dict[int, _Made]()
    for number, stage in enumerate(neighbourhood.prepared.stages):
        neighbourhood.update_stage_(found, number)
        columns = _loose(stage, found)
        if stage.terms and 0 < len(columns) <= _LARGEST_STAGE:
            # Where A has cycles, bounds of stages that are used now change later.
            relaxation = Relaxation(neighbourhood, found, made if neighbourhood.prepared.system.plan.triangular else {})
            lower, upper = _stage_bounds(relaxation, columns, number, steps)
            found.z_lower[:, columns] = torch.fmax(found.z_lower[:, columns], lower)
            found.z_upper[:, columns] = torch.fmin(found.z_upper[:, columns], upper)
            neighbourhood.activate_stage_(found, number)
            made.pop(number, None)  # of the wider bounds that it had
    return found


def _loose(stage: Stage, found: Enclosure) -> Tensor:
    """Return the pre-activations of a stage whose φ is no straight line on their bounds, for one sample at least."""
    at = stage.rows
    columns = torch.arange(at.start, at.stop)
    if not stage.activation.homogeneous:
        return columns
    return columns[((found.z_lower[:, at] < 0) & (found.z_upper[:, at] > 0)).any(dim=0)]


def _stage_bounds(relaxation: Relaxation, columns: Tensor, number: int, steps: int) -> tuple[Tensor, Tensor]:
    """Return bounds of z in ``columns`` of a stage, (m, len(columns)): below by those of z, above by those of -z."""
    prepared, m = relaxation.neighbourhood.prepared, len(relaxation.neighbourhood.U)
    stage = prepared.stages[number]
    count = max(1, _NUMBERS // (2 * m * (1 + (3 if steps else 1) * prepared.model.n_states)))
    parts = []
    for some in torch.split(columns - stage.rows.start, count):
        k = len(some)
        z = torch.zeros(m, 2 * k, stage.rows.stop - stage.rows.start, dtype=torch.float64)
        z[:, torch.arange(k), some] = 1.0
        z[:, torch.arange(k) + k, some] = -1.0
        bounds = relaxation.lower_bounds(Functionals(z.new_zeros(m, 2 * k), z={number: z}), number, steps)
        parts.append((bounds[:, :k], -bounds[:, k:]))
    lower, upper = zip(*parts, strict=True)
    return torch.cat(lower, dim=1), torch.cat(upper, dim=1)


@dataclass(frozen=True)
class Functionals:
    """Each sample has s functionals x̄·x + constant + z̄·z + ū·u to be bounded from below.

    ``x`` is (m, s, n) in working order, ``z`` holds (m, s, rows) for the numbers of some stages, ``constant`` is
    (m, s), ``u`` (m, s, p). None stands for zero.
    """

    constant: Tensor
    x: Tensor | None = None
    z: Mapping[int, Tensor] = field(default_factory=dict)
    u: Tensor | None = None


@dataclass(frozen=True)
class _Made:
    """What a pass needs of a stage, (m, k): standard slopes of its lines, with their constants; |A| X + |B| U + |b|."""

    low_slope: Tensor
    high_slope: Tensor
    low: Tensor
    high: Tensor
    sizes: Tensor


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The lines of all states are made for the samples' boxes and for bounds on the states."""

    neighbourhood: Neighbourhood
    enclosure: Enclosure
    made: dict[int, _Made] = field(default_factory=dict)

    def lower_bounds(self, functionals: Functionals, last: int, steps: int = 0) -> Tensor:
        """Return lower bounds, (m, s), with the standard slopes, or with better ones by ``steps`` of ascent.

        The functionals depend on the first ``last`` stages, on all where A has cycles; each has slopes of its own.
        """
        best = self._bounded(functionals, self._standard, last)
        if steps:
            best = torch.fmax(best, self._climbed(functionals, last, steps))
        return best

    def of(self, number: int) -> _Made:
        """What there is to know of a stage, made when it is first asked for."""
        if number not in self.made:
            self.made[number] = self._make(number)
        return self.made[number]

    def _make(self, number: int) -> _Made:
        found, stage = self.enclosure, self.neighbourhood.prepared.stages[number]
        x = found.x_lower[:, stage.target], found.x_upper[:, stage.target]
        low_slope, high_slope = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        low, high = x
        if not isinstance(stage.activation, Block):
            z = found.z_lower[:, stage.rows], found.z_upper[:, stage.rows]
            low_slope, high_slope = standard_slopes(stage.activation, *z)
            low = extremes(stage.activation, *z, low_slope)[0]
            high = extremes(stage.activation, *z, high_slope)[1]
        return _Made(low_slope, high_slope, low, high, self.neighbourhood.stage_sizes(found, number))

    def _standard(self, number: int) -> Lines:
        made = self.of(number)
        return Lines(*(part[:, None] for part in (made.low_slope, made.low, made.high_slope, made.high)))

    def _sloped(self, low_slope: Tensor, high_slope: Tensor) -> Callable[[int], Lines]:
        """Return what gives the lines of a stage with given slopes, (m, s, n)."""

        def lines(number: int) -> Lines:
            found, stage = self.enclosure, self.neighbourhood.prepared.stages[number]
            if isinstance(stage.activation, Block):
                return self._standard(number)
            low, high = low_slope[..., stage.target], high_slope[..., stage.target]
            z = found.z_lower[:, None, stage.rows], found.z_upper[:, None, stage.rows]
            return Lines(low, extremes(stage.activation, *z, low)[0], high, extremes(stage.activation, *z, high)[1])

        return lines

    def _climbed(self, functionals: Functionals, last: int, steps: int) -> Tensor:
        """Return the best bounds, (m, s), along ``steps`` steps of Adam on the slopes."""
        m, s = functionals.constant.shape
        slopes = self._slopes(last)
        low, high = (slope[:, None].repeat(1, s, 1).requires_grad_() for slope in slopes)
        optimiser = torch.optim.Adam([low, high], lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
        best = torch.full((m, s), -torch.inf, dtype=torch.float64)
        for _ in range(steps):
            bounds = self._bounded(functionals, self._sloped(low, high), last)
            best = torch.fmax(best, bounds.detach())
            if not bounds.requires_grad:  # blocks are all that there is on the way
                break
            low.grad, high.grad = torch.autograd.grad(-bounds.sum(), [low, high])
            self._freeze_(low.grad, high.grad, last)
            optimiser.step()
            schedule.step()
            self._limit_(last, low, high)
        return best

    def _slopes(self, last: int) -> tuple[Tensor, Tensor]:
        """Standard slopes of lower and upper lines of the stages of a pass, (m, n); 0 for other states."""
        low, high = torch.zeros_like(self.enclosure.x_lower), torch.zeros_like(self.enclosure.x_lower)
        for number in range(self._stages(last)):
            at, made = self.neighbourhood.prepared.stages[number].target, self.of(number)
            low[:, at], high[:, at] = made.low_slope, made.high_slope
        return low, high

    def _stages(self, last: int) -> int:
        """How many stages a pass goes through."""
        prepared = self.neighbourhood.prepared
        return last if prepared.system.plan.triangular else len(prepared.stages)

    def _freeze_(self, low: Tensor, high: Tensor, last: int) -> None:
        """Clear the gradient of the line on a homogeneous φ's better side, and where φ is straight on the bounds."""
        for stage in self.neighbourhood.prepared.stages[: self._stages(last)]:
            if isinstance(stage.activation, Activation) and stage.activation.homogeneous:
                at = stage.target
                left, right = stage.activation.half_lines
                z = self.enclosure.z_lower[:, None, stage.rows], self.enclosure.z_upper[:, None, stage.rows]
                crossing = (z[0] < 0) & (z[1] > 0)
                free, fixed = (low, high) if right >= left else (high, low)
                free[..., at] *= crossing
                fixed[..., at] = 0.0

    def _limit_(self, last: int, *slopes: Tensor) -> None:
        """Keep slopes between those of φ's half-lines where it is homogeneous: no other slope can be better."""
        with torch.no_grad():
            for stage in self.neighbourhood.prepared.stages[: self._stages(last)]:
                if isinstance(stage.activation, Activation) and stage.activation.homogeneous:
                    ends = sorted(stage.activation.half_lines)
                    for slope in slopes:
                        slope[..., stage.target] = slope[..., stage.target].clamp(*ends)

    def _bounded(self, functionals: Functionals, lines: Callable[[int], Lines], last: int) -> Tensor:
        """Return the lower bounds of one backward pass, (m, s)."""
        walk, count = _Walk(self, functionals, lines), self._stages(last)
        if self.neighbourhood.prepared.system.plan.triangular:
            for number in reversed(range(count)):
                walk.replace(number)
            return walk.bound()
        best = walk.bound()
        for passed in range(1, _SUBSTITUTIONS + 1):
            walk.replace(*range(count))
            if passed & (passed - 1) == 0:
                best = torch.fmax(best, walk.bound())
        return best


class _Walk:
    """Functionals z̄·z + x̄·x + ū·u + offset go back to the inputs, less γ times ``size`` for rounding.

    The z̄ are settled, since z is a sum of x and u; what they pass on to x is in x̄ already. Only stages that were met
    have any.
    """

    def __init__(self, relaxation: Relaxation, functionals: Functionals, lines: Callable[[int], Lines]) -> None:
        self._relaxation, self._lines, self._functionals = relaxation, lines, functionals
        self._offset, self._z = functionals.constant, dict[int, Tensor]()
        self._size = self._offset.abs()
        if functionals.x is None:
            width = relaxation.neighbourhood.prepared.model.n_states
            self._x = self._offset.new_zeros(*self._offset.shape, width)
        else:
            self._x = functionals.x.clone()
            self._size = self._size + _dot(self._x.abs(), relaxation.enclosure.largest)
        for number, z in functionals.z.items():
            self._settle(number, z)

    def replace(self, *numbers: int) -> None:
        """Replace x̄·x of some stages, all at once, by the lines' z̄·z + h."""
        stages = self._relaxation.neighbourhood.prepared.stages
        taken = [(number, self._x[..., stages[number].target].clone()) for number in numbers]
        taken = [(number, x) for number, x in taken if bool((x.detach() != 0).any())]
        for number, _ in taken:
            self._x[..., stages[number].target] = 0.0
        for number, x in taken:
            lines = self._lines(number)
            positive, negative = x.clamp(min=0.0), x.clamp(max=0.0)
            if isinstance(stages[number].activation, Block):
                self._take_box(positive, negative, lines.low, lines.high)
                continue
            self._offset = self._offset + (positive * lines.low + negative * lines.high).sum(dim=-1)
            self._size = self._size + (positive * lines.low.abs() - negative * lines.high.abs()).sum(dim=-1).detach()
            self._settle(number, positive * lines.low_slope + negative * lines.high_slope)

    def _take_box(self, positive: Tensor, negative: Tensor, low: Tensor, high: Tensor) -> None:
        """Replace x̄·x of a block by its least on the box of x, which may be infinite where it does not count."""
        below = torch.where(positive > 0, positive * low, 0.0) + torch.where(negative < 0, negative * high, 0.0)
        self._offset = self._offset + below.sum(dim=-1)
        self._size = self._size + below.detach().abs().sum(dim=-1)

    def _settle(self, number: int, z: Tensor) -> None:
        """Pass z̄·z of a stage on to x̄, and remember it for u and b."""
        self._z[number] = self._z[number] + z if number in self._z else z
        self._size = self._size + _dot(z.detach().abs(), self._relaxation.of(number).sizes)
        for source, block in self._relaxation.neighbourhood.prepared.stages[number].terms:
            self._x[..., source] += _linear(z, block.apply_transpose, block.apply)

    def bound(self) -> Tensor:
        """Return what the functionals are at least over the boxes of u and of the x that are left, (m, s)."""
        neighbourhood, enclosure = self._relaxation.neighbourhood, self._relaxation.enclosure
        prepared, box = neighbourhood.prepared, neighbourhood.box
        m, s = self._offset.shape
        u, size, value = self._offset.new_zeros(m, s, prepared.model.n_inputs), self._size, self._offset
        for number, z in self._z.items():
            value = value + z @ prepared.b[prepared.stages[number].rows]
            block = prepared.inputs[number]
            if block is not None:
                u = u + _linear(z, block.apply_transpose, block.apply)
        if self._functionals.u is not None:
            u, size = u + self._functionals.u, size + _dot(self._functionals.u.abs(), box.largest)
        value = value + _dot(u, box.centre) - _dot(u.abs(), box.radius)
        if not prepared.system.plan.triangular:
            middle, radius = centred(enclosure.x_lower, enclosure.x_upper)
            left = self._x.clone()  # it is overwritten later, and gradients need it as it is
            value = value + _dot(left, middle) - _dot(left.abs(), radius)
            size = size + _dot(left.detach().abs(), enclosure.largest)
        return value - prepared.gamma * size - UNDERFLOW


def _dot(coefficients: Tensor, values: Tensor) -> Tensor:
    """Return the products (m, s) of (m, s, k) and (m, k), summed over k."""
    return (coefficients @ values[:, :, None])[..., 0]


def _linear(z: Tensor, forward: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a linear map of (m s, k) for z (m, s, k); gradients go back through its transpose."""
    m, s, k = z.shape
    result: Tensor = _Linear.apply(z.reshape(m * s, k), forward, transposed)  # type: ignore[no-untyped-call]
    return result.reshape(m, s, -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, forward: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.transposed = transposed
        return forward(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed(gradient), None, None
