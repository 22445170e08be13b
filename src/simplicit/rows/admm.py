r"""Over-relaxed ADMM leads a whole block of rows at once from anywhere to nearly the right support.

Split w = y (all columns have norms near 1, so that one ρ suits them):

    x ← (G + ρI)⁻¹ (c + ρ(y − u)),   x̂ = αx + (1 − α)y,   y ← prox_{(h + ball)/ρ}(x̂ + u),   u ← u + x̂ − y

One factorisation of G + ρI serves all rows and all iterations, so that an iteration is one matrix product (two thin
ones where samples are few, :class:`~simplicit.rows.design.Resolvent`), in float32 where its digits are enough: the
polish needs the support and not the values. ρ begins where the thresholds p/ρ meet the size of a ridge solution, and
then follows the columns, on a grid, so that blocks meet at the same values and share the inverses: where more leave the
support than enter it the thresholds are too low, and ρ falls; else it rises.
The residuals that balance ρ elsewhere (Boyd et al. 2011, §3.4.1) say less of the support, which is all that is wanted.
The multiplier of the ball makes one Newton step an iteration: it and y settle together. y has exact zeros: it, and not
an average, is what the polish starts from.

With v = x̂ + u the iteration needs v and u alone, y being v − u, and for the ℓ1 norm u is v clamped to its thresholds.
Few large operations matter here: threads that run small ones wait for the interpreter more than they compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.rows.batch import Batch
from simplicit.rows.problem import RowProblem

# What is said of the family below is measured as in the docstring of the package: *easy*, *hard* and *few*.

#: α. With 1.6 and 1.95 the family takes as many iterations within 10 %; with 1.95 the polish has 40 % more to factorise
#: on hard.
RELAXATION = 1.85
#: ρ of the ridge solution that sets the scale, and the range of what the first ρ is set to by it. With 1e-3 few
#: factorises half as much again, with 1e-1 easy has half as many events again.
PILOT_RHO, FIRST_RHO = 1e-2, (1e-4, 1.0)
#: The thresholds p/ρ are this many times the size of the ridge solution at first. Half of it changes nothing, for ρ is
#: balanced later; twice as much saves hard a third of its events and costs easy 20 % more.
FIRST_SHARE = 4.0
#: What has changed is asked every so many iterations, of the last half of them. With 20 easy takes a quarter more of
#: them, with 6 it has twice as many events afterwards.
CHECK_EVERY = 10
#: Share of the signs that may still change between snapshot and check when the polish takes over. With twice as much
#: easy has three times as many events and hard half as much again to factorise; with half of it easy takes 60 more
#: iterations of 480 and saves a quarter of its events.
SETTLED = 0.008
#: Up to this iteration ρ may change, where more than a share of the columns change sides; columns that leave may be
#: more than those that enter by so many powers of ten. With 10 iterations, a share of .12 or a surplus of .3 hard takes
#: twice the time; without the surplus half of it, but easy has four times the events and few factorises half as much
#: again.
LAST_BALANCE, FEW, SURPLUS = 30, 0.05, 0.15
#: The least change of ρ and the largest, in powers of ten. With a least change of .5, which leaves ρ as it is longer,
#: hard takes twice the time; the largest is met on the path alone, where .4 and 1.5 save a third of the events.
LEAST_CHANGE, LARGEST_CHANGE = 0.25, 0.75
#: Columns are undecided that are no further from changing sides than they moved between snapshot and check, times this;
#: and no more of them than a share of the support, and a few. Half and twice of the first change the events of the
#: family by up to a sixth, of the others by less; few factorises a seventh more with twice the share.
DRIFTS, UNDECIDED_SHARE, UNDECIDED_LEAST = 6.0, 0.4, 8
#: A smaller ρ would leave G + ρI singular to working precision: float64 rounds G, of entries near 1, by some 1e-16·k.
LEAST_RHO = 1e-9
#: Where the largest gradient is so many times the kink, float32 cannot tell what is at zero: its iterates are right to
#: 1e-6 or so of the largest. On hard float64 begins here; float32 would take a third more iterations there.
FLOAT32_RANGE = 5e4
#: Numbers beyond this could overflow float32, which ends at 3e38, in a product of two.
LARGEST = 1e15


@dataclass(frozen=True)
class Start(Batch):
    """The polish begins here."""

    w: Tensor  # coefficients with exact zeros, (r, k) float64
    multiplier: Tensor  # μ of the ball, (r,)
    undecided: Tensor  # columns that may yet enter or leave, an (r, k) mask


def admm(problem: RowProblem, start: Tensor | None = None, *, iterations: int = 300, tol: float = 1e-3) -> Start:
    """Minimise a block of row problems approximately, from coefficients (r, k) or from zero.

    The iteration stops when the relative primal and dual residuals of every row are below ``tol``, or when the signs
    have settled: the polish needs the support and not the digits. The coefficients are on the support and, up to how
    far the multipliers have settled, in the ball. Undecided is what would change sides if it moved on as it did since
    the last snapshot, and a little further.
    """
    state = _State(problem, start)
    snapshot = _Snapshot(state)
    for iteration in range(1, iterations + 1):
        if iteration % CHECK_EVERY:
            state.step()
            if iteration % CHECK_EVERY == CHECK_EVERY // 2:
                snapshot = _Snapshot(state)
            continue
        previous = state.y
        x = state.step()
        left, entered, size = snapshot.changes(state)
        if left + entered <= SETTLED * size or state.residual(x, previous) <= tol:
            break
        if iteration <= LAST_BALANCE and left + entered > FEW * size:
            state.set_rho(state.rho * _rebalance(left, entered))
    return Start(state.y.double(), (state.mu * state.rho)[:, 0].double(), snapshot.undecided(state))


class _Snapshot:
    """What a state was is compared with what it is some iterations later."""

    def __init__(self, state: _State) -> None:
        self.signs, self.v = state.y.sign(), state.v.clone()

    def changes(self, state: _State) -> tuple[int, int, int]:
        """Count the columns that have left and entered, and those that are in, on either side of zero."""
        signs = state.y.sign()
        moved = signs != self.signs
        counts = (moved & (self.signs != 0)).sum(), (moved & (signs != 0)).sum(), signs.count_nonzero()
        left, entered, size = (int(count) for count in counts)
        return left, entered, size

    def undecided(self, state: _State) -> Tensor:
        """Return what would change sides if it moved on as it did since then, DRIFTS times over, as a mask."""
        y = state.y
        margin = torch.where(y != 0, y.abs(), state.upper - state.v.abs())
        ratio = margin / (state.v - self.v).abs().clamp(min=1e-30)
        most = int(UNDECIDED_SHARE * float(y.count_nonzero(dim=1).double().median())) + UNDECIDED_LEAST
        if most >= ratio.shape[1]:
            return ratio <= DRIFTS
        return ratio <= ratio.kthvalue(most, dim=1, keepdim=True).values.clamp(max=DRIFTS)


class _State:
    """The state of the iteration is v and u of a block, in the working type."""

    def __init__(self, problem: RowProblem, start: Tensor | None) -> None:
        self.problem, self.dtype = problem, _working_type(problem)
        self.cross = problem.cross.to(self.dtype)
        self.penalty = problem.penalty.to(self.cross)
        kink, _, _ = self.penalty.expanded(problem.shape)
        # An infinite threshold keeps a column off the support at zero.
        self.kink = kink if problem.allowed is None else torch.where(problem.allowed, kink, torch.inf)
        self.columns = _as_slice(problem.ball_columns)
        self.weights, self.radius = problem.ball_weights.to(self.dtype), problem.radius.to(self.dtype)
        self.squares = (self.weights * self.weights).T.contiguous()
        self.mu = torch.zeros_like(self.radius)  # of the ball, divided by ρ
        self.v = torch.zeros_like(self.cross) if start is None else start.to(self.dtype)
        self.u, self.x, self.buffer = (torch.zeros_like(self.cross) for _ in range(3))
        self.rho = 0.0
        self.set_rho(_first_rho(problem, self.cross, kink))
        if start is not None:
            # The multiplier that goes with the start: the gradient there, as far as the penalty allows.
            self.u = problem.residuals(start)[1].to(self.dtype).div_(self.rho)
            self.v = self.v + self.u
            self._shrink()

    @property
    def y(self) -> Tensor:
        return self.v - self.u

    def residual(self, x: Tensor, previous: Tensor) -> float:
        """Return the largest relative primal or dual residual, after an iteration from ``previous``."""
        y = self.y
        size = torch.maximum(x.norm(dim=1), y.norm(dim=1)).clamp(min=1e-30)
        primal = (x - y).norm(dim=1) / size
        dual = (y - previous).norm(dim=1) / self.u.norm(dim=1).clamp(min=1e-30)
        return float(torch.maximum(primal, dual).max())

    def set_rho(self, rho: float) -> None:
        """Take another ρ, at the same y and the same unscaled multipliers."""
        rho = max(_on_grid(rho), LEAST_RHO)
        if rho == self.rho:
            return
        if self.rho:
            ratio = self.rho / rho
            self.v = self.y + self.u * ratio
            self.u, self.mu = self.u * ratio, self.mu * ratio
        self.rho = rho
        self.resolvent = self.problem.design.resolvent(rho, self.dtype)
        self.scaled_cross = self.cross / rho
        self.upper = self.kink / rho
        self.lower = -self.upper
        self.base = self.upper[:, self.columns].clone()
        self._price_ball()
        self.bend = self.penalty.curvature / rho

    def step(self) -> Tensor:
        """Do one iteration, and return x, which the next one overwrites."""
        right = torch.sub(self.v, self.u, alpha=2, out=self.buffer).add_(self.scaled_cross)
        x = self.resolvent.apply(right, out=self.x)
        # x̂ + u = v + α(x + u − v)
        self.v.lerp_(torch.add(x, self.u, out=self.buffer), RELAXATION)
        if len(self.problem.ball_columns):
            self._follow_ball()
        self._shrink()
        return x

    def _shrink(self) -> None:
        """Set u = v − y from the thresholds."""
        if self.penalty.only_kinks:
            torch.clamp(self.v, self.lower, self.upper, out=self.u)
        else:
            size = self.penalty.shrink(self.v.abs() - self.upper, torch.as_tensor(1 / self.rho, dtype=self.dtype))
            self.u = self.v - size.copysign_(self.v)

    def _follow_ball(self) -> None:
        """Make a Newton step on the multipliers, towards Σ aⱼ|yⱼ| = κ; a bent penalty makes it a cautious one."""
        over = self.v[:, self.columns].abs().sub_(self.base)
        size = torch.addmm(over, self.mu, self.weights, alpha=-1).clamp_(min=0)
        excess = torch.addmm(self.radius, size, self.weights.T, beta=-1)
        slope = size.sign_() @ self.squares
        self.mu = torch.where(slope > 0, self.mu + excess / slope, 0.0).clamp_(min=0)
        self._price_ball()

    def _price_ball(self) -> None:
        """Set the thresholds in the ball, those of the penalty and the multiplier."""
        if len(self.problem.ball_columns):
            priced = torch.addmm(self.base, self.mu, self.weights)
            self.upper[:, self.columns] = priced
            self.lower[:, self.columns] = priced.neg_()


def _as_slice(columns: Tensor) -> slice | Tensor:
    """Return the same columns, as a slice where they are contiguous: views are cheaper than copies."""
    if not len(columns):
        return columns
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first + 1 == len(columns) else columns


def _working_type(problem: RowProblem) -> torch.dtype:
    """Choose float32 unless the kinks are too fine for it, or a number too large."""
    largest = problem.cross.abs().amax(1)
    kink = problem.penalty.expanded(problem.shape)[0].median(1).values
    fine = float((largest / kink.clamp(min=1e-300)).median()) > FLOAT32_RANGE
    numbers = (problem.penalty.curvature, problem.penalty.threshold, problem.ball_weights, problem.radius, largest)
    large = any(bool((a > LARGEST).any()) for a in numbers)
    return torch.float64 if fine or large else torch.float32


def _first_rho(problem: RowProblem, cross: Tensor, kink: Tensor) -> float:
    """Return the ρ at which the thresholds are so many times the coefficients of a ridge solution."""
    size = problem.design.ridge(PILOT_RHO, cross).square_().mean(1).sqrt()
    wanted = float((kink.mean(1) / (FIRST_SHARE * size.clamp(min=1e-30))).median())
    return math.sqrt(PILOT_RHO * min(max(wanted, FIRST_RHO[0]), FIRST_RHO[1]))


def _on_grid(rho: float) -> float:
    """Return the nearest power of 10^(1/2)."""
    return float(10 ** (round(2 * math.log10(rho)) / 2))


def _rebalance(left: int, entered: int) -> float:
    """Return the factor on ρ that evens out how many columns enter and leave the support until a check."""
    surplus = math.log10((left + 1) / (entered + 1)) - SURPLUS
    if abs(surplus) < LEAST_CHANGE:
        return 1.0
    return float(10 ** -min(max(surplus, -LARGEST_CHANGE), LARGEST_CHANGE))
