r"""Interval bounds through the equilibrium: certificate (b), and the global bound (a) that it starts from.

**(a)** For two inputs whose distance is at most r, entry by entry, the equilibria differ by at most d with
d = L (|A| d + |B| r), hence d = (I - L|A|)⁻¹ L |B| r, and a difference of outputs y_c - y_k moves by at most

    |C_c - C_k| d + |D_c - D_k| r.

**(b)** Let F(X, U) be the interval image of φ(A x + B u + b) for x in the box X and u in the box U. *If X holds the
equilibria of all u in U, so does F(X, U) ∩ X*: each of them satisfies x = φ(A x + B u + b), with x in X and u in U. So
from any sound start every iterate is sound, whether or not the iteration has converged, and the boxes only shrink. It
starts with x(u₀) ± d from (a). Where A is triangular one substitution, stage after stage, is the fixed point. A block
has the interval image of its program (:meth:`simplicit.implicit.Block.image`).

Sharper than (a), never looser: after the start, φ of an interval is its true image where (a) takes slope L everywhere,
and margins are bounded as one interval of y_c - y_k, not as a difference of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from simplicit.implicit.groups import Block
from simplicit.implicit.plan import Loop
from simplicit.robustness.box import OuterBox, PerSample, centred
from simplicit.robustness.certificates.lines import extremes
from simplicit.robustness.certificates.prepared import PreparedModel, unknown
from simplicit.robustness.labels import at_labels, by_label, with_labels

# The iteration stops when no box shrinks by more than this share of its width, or after so many sweeps; any number of
# them is sound. Where a sweep closes a fifth of what is left to gain, as with λ_pf = 0.8, some 35 settle.
_SETTLED, _SWEEPS = 1e-4, 100


@dataclass(frozen=True)
class Enclosure(PerSample):
    """These boxes hold Z and X of every input in the box of a sample; all are (m, n) float64, in working order.

    Where the model has blocks, Z is (m, n_pre), and the boxes hold every trajectory with outputs of blocks as computed
    in the model's dtype, and all else exact, loops with their blocks among it; ``errors`` say how far from it states as
    computed may be, (m, n).
    """

    z_lower: Tensor
    z_upper: Tensor
    x_lower: Tensor
    x_upper: Tensor
    errors: Tensor | None = None

    @property
    def bounds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four."""
        return self.z_lower, self.z_upper, self.x_lower, self.x_upper

    def copy(self) -> Enclosure:
        """Return boxes that may be overwritten."""
        errors = None if self.errors is None else self.errors.clone()
        z_lower, z_upper, x_lower, x_upper = (bound.clone() for bound in self.bounds)
        return Enclosure(z_lower, z_upper, x_lower, x_upper, errors)

    @property
    def largest(self) -> Tensor:
        """A bound on |x|, (m, n)."""
        return self.largest_of(slice(None))

    def largest_of(self, states: slice | Tensor) -> Tensor:
        """A bound on |x| of some states, (m, k)."""
        return torch.maximum(self.x_lower[:, states].abs(), self.x_upper[:, states].abs())


@dataclass(frozen=True, eq=False)
class Neighbourhood(PerSample):
    """Samples ``U`` (m, p), float64, lie in a box of inputs each; states are in working order.

    Margins are lower bounds on y_c - y_k over the box, (m, q), one for every k; c is the sample's label, where they
    are infinite.
    """

    prepared: PreparedModel
    U: Tensor
    box: OuterBox

    @cached_property
    def drive(self) -> Tensor:
        """B u + b at the centres of the boxes, (m, n_pre)."""
        return self.prepared.system.plan.to_working(self.prepared.system.drive(self.box.centre))

    @cached_property
    def drive_radii(self) -> Tensor:
        """|B| r for the radii of the boxes, (m, n)."""
        return self.prepared.drive_reach(self.box.radius)

    @cached_property
    def drive_sizes(self) -> Tensor:
        """|B| |u| + |b|, at most, (m, n)."""
        system = self.prepared.system
        return self.prepared.widened(system.plan.to_working(system.absolute.drive(self.box.largest)))

    def sizes(self, X: Tensor) -> Tensor:
        """Return |A| X + |B| |u| + |b|, (m, n), for bounds X on |x|: what rounding is measured against."""
        return self.prepared.widened(self.prepared.system.absolute.plan.product(X) + self.drive_sizes)

    def stage_sizes(self, found: Enclosure, number: int) -> Tensor:
        """Return :meth:`sizes` of one stage, (m, k), for the boxes of x in ``found``."""
        stage = self.prepared.system.absolute.plan.stages[number]
        total = self.drive_sizes[:, stage.rows]
        for source, block in stage.terms:
            total = total + block.apply(found.largest_of(source))
        return self.prepared.widened(total)

    @cached_property
    def states(self) -> Tensor:
        """x at the samples, (m, n), up to rounding."""
        return self.prepared.system.solve(self.U).X

    @cached_property
    def outputs(self) -> Tensor:
        """y at the samples, (m, q), up to rounding."""
        return self.states @ self.prepared.C.T + self.U @ self.prepared.D.T + self.prepared.d

    @cached_property
    def distance(self) -> Tensor:
        """A bound on |u' - u| over the box, (m, p)."""
        return self.box.distance(self.U)

    @cached_property
    def state_radii(self) -> Tensor:
        """(a): d, (m, n)."""
        return self.prepared.state_radii(self.prepared.drive_reach(self.distance))

    @cached_property
    def largest_states(self) -> Tensor:
        """A bound on |x| over the box, (m, n), from (a)."""
        return self.prepared.widened(self.states.abs() + self.state_radii)

    @cached_property
    def state_errors(self) -> Tensor:
        """How far :attr:`states`, computed in float64, may be from exact, (m, n)."""
        X = self.largest_states
        # Twice, because X is a bound on the states as computed.
        return 2.0 * self.prepared.state_errors(X, self.sizes(X), torch.float64)

    def global_margins(self, labels: Tensor) -> Tensor:
        """Return the margins of (a): y_c - y_k at the sample less what it can move."""
        prepared = self.prepared
        if not bool(torch.isfinite(prepared.slopes).all()):  # a block without a constant
            nothing = torch.full((len(labels), prepared.model.n_outputs), -torch.inf, dtype=torch.float64)
            return with_labels(nothing, labels, torch.inf)
        Y = self.outputs
        reach = torch.empty_like(Y)
        for c, at in by_label(labels):
            reach[at] = self.state_radii[at] @ (prepared.C[c] - prepared.C).abs().T
            reach[at] += self.distance[at] @ (prepared.D[c] - prepared.D).abs().T
        errors = prepared.output_errors(self.state_errors, self.largest_states, self.box.largest, torch.float64)
        margins = at_labels(Y, labels) - Y - prepared.widened(reach) - _sums(errors, labels)
        return with_labels(margins, labels, torch.inf)

    def enclosure(self) -> Enclosure:
        """Return the boxes of (b), by sweeps until they settle; by one sweep if A is triangular."""
        prepared, found = self.prepared, self._start()
        if prepared.trajectories:
            for part in prepared.system.plan.parts:
                if isinstance(part, Loop):
                    self._enclose_loop_(found, part)
                else:
                    self.update_stage_(found, part)
        else:
            self._sweep_(found, range(len(prepared.stages)), 1 if prepared.system.plan.triangular else _SWEEPS)
        return found

    def _sweep_(self, found: Enclosure, numbers: range, most: int) -> None:
        """Update some stages in turn until no box shrinks any more."""
        for _ in range(most):
            width = found.x_upper - found.x_lower
            for number in numbers:
                self.update_stage_(found, number)
            if bool((found.x_upper - found.x_lower >= (1.0 - _SETTLED) * width).all()):
                break

    def _start(self) -> Enclosure:
        infinite = torch.full_like(self.drive, torch.inf)
        if self.prepared.trajectories:  # (a) speaks of other trajectories
            everything = torch.full((len(self.U), self.prepared.model.n_states), torch.inf, dtype=torch.float64)
            return Enclosure(-infinite, infinite, -everything, everything.clone(), torch.zeros_like(everything))
        reach = self.prepared.widened(self.state_radii + self.state_errors)
        return Enclosure(-infinite, infinite, self.states - reach, self.states + reach)

    def _enclose_loop_(self, found: Enclosure, loop: Loop) -> None:
        """Overwrite the boxes and errors of a loop's states, from those of the states before it.

        The start is (a) around the sample, for what the boxes of the states before it let its drive move.
        """
        prepared, plan = self.prepared, self.prepared.system.plan
        twin = prepared.system.absolute.plan.loops[plan.loops.index(loop)]
        X = 2.0 * self.states.abs() + 1.0  # generous, for what is computed in float64
        rounding, growth = prepared.rounding_reach(X, self.sizes(X), torch.float64)
        reach = 2.0 * rounding + prepared.drive_reach(self.distance)
        for rows, (source, block) in twin.outside:
            low, high = found.x_lower[:, source], found.x_upper[:, source]
            apart = torch.maximum(high - self.states[:, source], self.states[:, source] - low)
            reach[:, rows] += prepared.widened(block.apply(apart))
        left = prepared.left_over(X, torch.float64)
        radii = prepared.loop_radii(twin, unknown(reach[:, loop.rows]), growth, left)
        at = loop.states
        found.x_lower[:, at], found.x_upper[:, at] = self.states[:, at] - radii, self.states[:, at] + radii
        self._sweep_(found, range(loop.first, loop.first + len(loop.names)), _SWEEPS)
        if found.errors is not None:
            X = found.largest
            rounding, growth = prepared.rounding_reach(X, unknown(self.sizes(X)), prepared.dtype)
            for rows, (source, block) in twin.outside:
                rounding[:, rows] += growth * block.apply(found.errors[:, source])
            left = prepared.left_over(X, prepared.dtype)
            found.errors[:, at] = prepared.loop_radii(twin, unknown(rounding[:, loop.rows]), growth, left)

    def update_stage_(self, found: Enclosure, number: int) -> None:
        """Overwrite the bounds of one stage's states in ``found`` with F(X, U) ∩ X."""
        prepared, plan = self.prepared, self.prepared.system.plan
        stage, twin = plan.stages[number], prepared.system.absolute.plan.stages[number]
        rows = stage.rows
        centre, radius, sizes = self.drive[:, rows], self.drive_radii[:, rows], self.drive_sizes[:, rows]
        for (source, block), (_, size) in zip(stage.terms, twin.terms, strict=True):
            lower, upper = found.x_lower[:, source], found.x_upper[:, source]
            middle, reach = centred(lower, upper)
            centre = centre + block.apply(middle)
            radius = radius + size.apply(reach)
            sizes = sizes + size.apply(torch.maximum(lower.abs(), upper.abs()))
        radius = radius + prepared.rounded(prepared.gamma * sizes, rows)
        # What is no number, as a product with an infinite bound, tells nothing.
        found.z_lower[:, rows] = torch.fmax(found.z_lower[:, rows], centre - radius)
        found.z_upper[:, rows] = torch.fmin(found.z_upper[:, rows], centre + radius)
        self.activate_stage_(found, number)

    def activate_stage_(self, found: Enclosure, number: int) -> None:
        """Overwrite the bounds of x of one stage's states in ``found``, from those of z."""
        stage, phi = self.prepared.stages[number], self.prepared.stages[number].activation
        at, lower, upper = stage.target, found.z_lower[:, stage.rows], found.z_upper[:, stage.rows]
        if isinstance(phi, Block):
            zeta, kind = torch.zeros_like(lower), torch.float64
            if number not in self.prepared.looped:
                (zeta, _), kind = self._pre_errors(found, number), self.prepared.dtype
            low, high = phi.image(lower - zeta, upper + zeta, kind)
        else:
            low, high = extremes(phi, lower, upper, 0.0)
        found.x_lower[:, at] = torch.fmax(found.x_lower[:, at], low)
        found.x_upper[:, at] = torch.fmin(found.x_upper[:, at], high)
        if found.errors is not None and not isinstance(phi, Block) and number not in self.prepared.looped:
            zeta, sizes = self._pre_errors(found, number)
            bounds, X = (lower - zeta, upper + zeta), found.largest_of(at)
            errors = self.prepared.stage_errors(number, zeta, bounds, X, sizes, self.prepared.dtype)
            found.errors[:, at] = errors.nan_to_num(nan=torch.inf)

    def _pre_errors(self, found: Enclosure, number: int) -> tuple[Tensor, Tensor]:
        """Return how far one stage's z may be from exact as the model evaluates it, and the sizes of its sums."""
        stage = self.prepared.system.absolute.plan.stages[number]
        sizes = self.drive_sizes[:, stage.rows]
        for source, block in stage.terms:
            sizes = sizes + block.apply(found.largest_of(source))
        errors = found.x_lower.new_zeros(()).expand_as(found.x_lower) if found.errors is None else found.errors
        zeta = self.prepared.pre_errors(number, errors, sizes, self.prepared.dtype)
        return zeta.nan_to_num(nan=torch.inf), sizes

    def interval_margins(self, enclosure: Enclosure, labels: Tensor) -> Tensor:
        """Return the margins of (b): the lower end of the interval of y_c - y_k."""
        prepared, box = self.prepared, self.box
        middle, radius = centred(enclosure.x_lower, enclosure.x_upper)
        margins = torch.empty(len(labels), self.prepared.model.n_outputs, dtype=torch.float64)
        for c, at in by_label(labels):
            C, D = prepared.C[c] - prepared.C, prepared.D[c] - prepared.D
            margins[at] = middle[at] @ C.T + box.centre[at] @ D.T + (prepared.d[c] - prepared.d)
            margins[at] -= radius[at] @ C.abs().T + box.radius[at] @ D.abs().T
            sizes = enclosure.largest[at] @ C.abs().T + box.largest[at] @ D.abs().T
            margins[at] -= prepared.gamma * (sizes + (prepared.d[c].abs() + prepared.d.abs()))
        return with_labels(margins, labels, torch.inf)

    def evaluation_errors(self, enclosure: Enclosure | None, labels: Tensor) -> Tensor:
        """Return how far y_c - y_k as the model evaluates it may be from exact over the box, (m, q).

        Without an ``enclosure`` that follows from what (a) knows of the states.
        """
        prepared, dtype = self.prepared, self.prepared.dtype
        X = self.largest_states if enclosure is None else enclosure.largest
        if enclosure is not None and enclosure.errors is not None:
            return _sums(prepared.output_errors(enclosure.errors, X, self.box.largest, dtype), labels)
        sizes = self.sizes(X)
        if enclosure is None or not prepared.system.plan.triangular:
            errors = prepared.state_errors(X, sizes, dtype)
        else:
            errors = prepared.sharp_state_errors(enclosure.z_lower, enclosure.z_upper, X, sizes, dtype)
        return _sums(prepared.output_errors(errors, X, self.box.largest, dtype), labels)


def _sums(errors: Tensor, labels: Tensor) -> Tensor:
    """Return the errors of differences from those of the outputs, (m, q)."""
    return at_labels(errors, labels) + errors
