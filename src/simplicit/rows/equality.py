r"""Exact matching is basis pursuit, by the method of multipliers on the same row solver.

    min over w of Σⱼ pⱼ|wⱼ|   s.t.   Φw = z,   Σ_{j∈J} aⱼ|wⱼ| ≤ κ                                  (8), (9)

The method of multipliers solves row problems with a target that carries the multiplier y of Φw = z (for basis pursuit
it is Bregman iteration, which adds the residual back to the target; Yin, Osher, Goldfarb and Darbon 2008):

    w ← argmin ½‖z + y − Φw‖² + τ·h(w) under the ball,     y ← y + z − Φw

Each is solved to a certificate, and since the problem is a linear programme finitely many steps suffice; they are
fewer the smaller τ is, which therefore falls from step to step, down to what float64 can tell. Once the support is
right, the smallest change of w on it that matches the target (and stays on the ball) ends the matter. θ =
(z + y − Φw)/τ is feasible in the dual  max zᵀθ − κμ  s.t. |Φⱼᵀθ| ≤ pⱼ + μaⱼ[j ∈ J], after scaling into it, so that

    gap(t, μ) = Σ pⱼ|wⱼ| − t·zᵀθ + κμ + t‖θ‖‖z − Φw‖

proves the row: no coefficients that match as well have a norm smaller by more. "Exactly" is up to 1e-7·‖z‖, which is
what states in float32 can tell; mostly it is 1e-14. Whether any w matches at all is asked first: least squares under
the ball, with its own certificate. A row whose least residual is not zero up to rounding is infeasible, and comes back
with the coefficients that have it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.active_set import solve_block
from simplicit.rows.ball import shrink_into_ball
from simplicit.rows.batch import Array, Batch, Mask
from simplicit.rows.certificate import certify
from simplicit.rows.outcome import BlockSolution, RowStatus
from simplicit.rows.penalties import NoPenalty
from simplicit.rows.problem import RowProblem, SampleProblem

#: ‖z − Φw‖ up to this share of ‖z‖ counts as exact: float32 states are rounded by 6e-8 of their size.
MATCHED = 1e-7
#: Steps of the method of multipliers, at most: it takes four to seven where nothing is degenerate (sparse and dense
#: targets on 60 samples of 200 normal columns and 100 of 400, as what follows).
MAX_STEPS = 60
#: The strength τ of the first and the last subproblems, as a share of the one at which the solution is zero, and the
#: factor between two of them. Ten times less or more of the first, or a third or thrice the factor, cost or save one
#: step or two of five; the last is not met there, and is where the rounding of z + y is 1e-8 of what is solved for.
FIRST_SHARE, LAST_SHARE, FALL = 1e-2, 1e-8, 0.1
#: Below this share residuals are so small that the subproblems are solved as far as float64 goes; from 1e-4 on that
#: takes three times as long.
FINE_SHARE = 1e-6
#: The relative gaps to which subproblems are solved, at first and as far as float64 goes.
COARSE_TOL, FINE_TOL = 1e-9, 1e-15
#: The kink in the certificate of a column without a price, as a share of ‖θ‖: above the rounding of Φᵀθ, 1e-16·√m of
#: it, and so small that it adds no more than 1e-10·‖θ‖·‖w‖₁ to the gap.
LEAST_KINK = 1e-10
#: Supports up to this size are tried for a dual point of their own, by a least squares of some seconds at this size.
MOST_SUPPORTING = 2000
#: Steps at the smallest τ without a smaller gap after which a row is given up; 2 and 20 make no difference there.
PATIENCE = 6


def solve_equality_path(
    problems: Sequence[RowProblem], *, tol: float, start: Tensor | None = None
) -> list[BlockSolution]:
    """Solve a block of basis pursuits to relative gap ``tol``, each from the one before, the first from ``start``.

    The problems have their samples, and ℓ1 penalties that stand for the whole objective.
    """
    results: list[BlockSolution] = []
    for problem in problems:
        assert isinstance(problem, SampleProblem)
        results.append(_solved(problem, tol, start))
        start = problem.tensor(results[-1].coefficients)
    return results


def _solved(problem: SampleProblem, tol: float, start: Tensor | None) -> BlockSolution:
    begun = time.perf_counter()
    least = _least_squares(problem)
    size = problem.energy.sqrt().cpu().numpy()
    state = _Multipliers(problem, tol, least)
    # The least residual that is proved: ‖z − Φw‖² less twice the gap of ½‖z − Φw‖².
    proved = np.sqrt(np.maximum(least.residual**2 - 2 * least.dual_gap, 0.0))
    infeasible = (least.residual > MATCHED * size) & (proved > MATCHED * size)
    state.best.status[infeasible] = RowStatus.INFEASIBLE  # of these the nearest is returned
    rows = problem.tensor(np.flatnonzero(~infeasible & (size > 0)))
    if len(rows):
        state.run(rows, start)
    seconds = np.full(len(size), (time.perf_counter() - begun) / len(size))
    return replace(state.solution(), seconds=seconds)


def prove_equality(problem: SampleProblem, block: BlockSolution, theta: Array, tol: float) -> BlockSolution:
    """Prove the coefficients of a block as exact matching by the dual points ``theta`` (r, m)."""
    state, w = _Multipliers(problem, tol, block), problem.tensor(block.coefficients)
    rows = torch.arange(len(w), device=w.device)
    state.certify(problem, rows, _matched(problem, w), problem.tensor(theta))
    status = state.best.status
    status[status == RowStatus.ITERATION_LIMIT] = RowStatus.ACCURACY_LIMIT
    return state.solution()


def _least_squares(problem: SampleProblem) -> BlockSolution:
    """Come as near to the targets as any coefficients do, under the ball and on the support."""
    # In full: of a tensor expanded from one entry torch's median, by which ADMM chooses its number type, is arbitrary.
    penalty = NoPenalty().pieces(*problem.shape).to(problem.cross).scaled(torch.ones_like(problem.cross), 1.0)
    nothing = replace(problem, penalty=penalty)
    least = solve_block(nothing, tol=COARSE_TOL)
    missed = np.flatnonzero(least.residual > MATCHED * problem.energy.sqrt().cpu().numpy())
    if not len(missed) or problem.shape[1] > MOST_SUPPORTING:
        return least
    # Where columns are nearly dependent the normal equations lose digits that a singular value decomposition has.
    part, rows = nothing.select(missed), least.select(missed)
    direct = _pseudo_inverse(part, rows.coefficients)
    w = problem.tensor(direct)
    residual = part.residuals(w)[0].sqrt().cpu().numpy()
    gap = certify(part, w).dual_gap.cpu().numpy()
    better = residual < rows.residual
    least.put(missed[better], replace(rows, coefficients=direct, residual=residual, dual_gap=gap).select(better))
    return least


def _pseudo_inverse(problem: SampleProblem, fallback: Array) -> Array:
    """Return the smallest least squares on the support, where they lie in the ball, else ``fallback`` (r, k)."""
    result, inside = fallback.copy(), problem.ball_columns.cpu().numpy()
    weights, transposed = problem.ball_weights.cpu().numpy()[0], problem.design.transposed_array
    for row, z in enumerate(problem.targets.cpu().numpy()):
        allowed = slice(None) if problem.allowed is None else np.flatnonzero(problem.allowed[row].cpu().numpy())
        w = np.zeros(problem.shape[1])
        w[allowed] = np.linalg.lstsq(transposed[allowed].T, z, rcond=None)[0]
        if not len(inside) or np.abs(w[inside]) @ weights <= float(problem.radius[row, 0]):
            result[row] = w
    return result


@dataclass(eq=False)
class _Open(Batch):
    """These rows are neither proved nor given up."""

    rows: Tensor  # their places in the block
    problem: SampleProblem
    scale: Tensor  # the strength at which the solution is zero, (r, 1)
    y: Tensor  # the multiplier of Φw = z, (r, m)
    w: Tensor | None
    waited: Tensor  # steps at the smallest τ without a smaller gap


class _Multipliers:
    """The method of multipliers runs on a block, and ``best`` has the best certified coefficients of every row."""

    def __init__(self, problem: SampleProblem, tol: float, least: BlockSolution) -> None:
        self.problem, self.tol = problem, tol
        w = problem.tensor(least.coefficients)
        rows = len(w)
        self.best = replace(
            least.select(np.arange(rows)),
            objective=problem.penalty.value(w).cpu().numpy(),
            dual_gap=np.full(rows, np.inf),
            multiplier=np.zeros(rows),
            status=np.full(rows, RowStatus.ITERATION_LIMIT, dtype=np.int8),
        )
        zero = problem.energy.cpu().numpy() == 0
        for part in (self.best.dual_gap, self.best.status, self.best.coefficients, self.best.residual):
            part[zero] = 0
        self.best.objective[zero] = 0

    def run(self, rows: Tensor, start: Tensor | None) -> None:
        """Step until every one of the rows is proved or given up."""
        problem = self.problem.select(rows)
        kink = problem.penalty.expanded(problem.shape)[0]
        scale = torch.where(kink > 0, problem.cross.abs() / kink, 0.0).amax(1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        y = torch.zeros_like(problem.targets)
        # Where only one w matches, least squares has found it, and only the proof is missing.
        unique = problem.tensor(self.best.coefficients)[rows]
        self.certify(problem, rows, unique, _supporting(problem, unique, torch.zeros_like(scale[:, 0])))
        waited = torch.zeros(len(rows), dtype=torch.int64)
        going, share = _Open(rows, problem, scale, y, None if start is None else start[rows], waited), FIRST_SHARE
        for _ in range(MAX_STEPS):
            improved = self._step(going, share)
            # The multiplier stays, whatever the strength is that it is measured in.
            going.y, share = going.y * max(FALL, LAST_SHARE / share), max(FALL * share, LAST_SHARE)
            going.waited = torch.where(improved, 0, going.waited + int(share <= LAST_SHARE))
            self.best.status[going.rows[going.waited > PATIENCE].cpu().numpy()] = RowStatus.ACCURACY_LIMIT
            left = self.best.status[going.rows.cpu().numpy()] == RowStatus.ITERATION_LIMIT
            if not left.any():
                break
            going = going.select(left)

    def _step(self, going: _Open, share: float) -> Tensor:
        """Do one step at τ = share·scale, and say where the gap became smaller."""
        problem, scale = going.problem, going.scale
        shifted = problem.with_targets(problem.targets + going.y)
        shifted = replace(shifted, penalty=replace(problem.penalty.scaled(share * scale, 1.0), equality=False))
        block = solve_block(shifted, tol=COARSE_TOL if share > FINE_SHARE else FINE_TOL, start=going.w)
        going.w = w = problem.tensor(block.coefficients)
        going.y = problem.targets + going.y - w @ problem.design.transposed
        mu = problem.tensor(block.multiplier) / (share * scale)[:, 0]
        matched = _matched(problem, w)
        improved = self.certify(problem, going.rows, matched, going.y / (share * scale))
        improved |= self.certify(problem, going.rows, matched, _supporting(problem, matched, mu))
        self.best = replace(self.best, timings=self.best.timings + block.timings)
        return torch.from_numpy(improved)

    def certify(self, problem: SampleProblem, rows: Tensor, w: Tensor, theta: Tensor) -> Mask:
        """Keep coefficients (n, k) of some rows where θ (n, m) proves a smaller gap, and say where that is so."""
        along = (problem.targets * theta).sum(1)
        least = LEAST_KINK * theta.norm(dim=1, keepdim=True)
        kink = problem.penalty.expanded(problem.shape)[0]
        proving = torch.where(kink > 0, kink, least)
        t, mu = _dual_point(problem, theta @ problem.design.transposed.T, along, proving)
        objective = problem.penalty.value(w)
        dual = t * along - problem.radius[:, 0] * mu
        residual = (problem.targets - w @ problem.design.transposed).norm(dim=1)
        gap = ((proving * w.abs()).sum(1) - dual + t * theta.norm(dim=1) * residual).clamp(min=0)
        matched = residual <= MATCHED * problem.energy.sqrt()
        index = rows.cpu().numpy()
        found = replace(
            self.best.select(index),
            coefficients=w.cpu().numpy(),
            objective=objective.cpu().numpy(),
            dual_gap=torch.where(matched & gap.isfinite(), gap, torch.inf).cpu().numpy(),
            multiplier=mu.cpu().numpy(),
            residual=residual.cpu().numpy(),
        )
        better: Mask = found.dual_gap < self.best.dual_gap[index]
        self.best.put(index[better], found.select(better))
        self.best.status[index[found.dual_gap <= self.tol * _floored(problem, found)]] = RowStatus.CONVERGED
        return better

    def solution(self) -> BlockSolution:
        """Return the best of every row."""
        gap = self.best.dual_gap
        relative = np.where(gap > 0, gap / _floored(self.problem, self.best), 0.0)
        return replace(self.best, relative_gap=relative, cardinality_gap=np.full(len(gap), np.nan))


def _matched(problem: SampleProblem, w: Tensor) -> Tensor:
    """Return the nearest coefficients on the support of ``w`` that match the target and keep a tight ball tight."""
    ball, transposed = problem.ball_prices.cpu().numpy(), problem.design.transposed_array
    result = w.cpu().numpy().copy()
    for row, z, radius in zip(result, problem.targets.cpu().numpy(), problem.radius[:, 0].tolist(), strict=True):
        support = np.flatnonzero(row)
        normal = np.sign(row[support]) * ball[support]
        system, missing = transposed[support].T, z - row @ transposed
        if normal @ row[support] >= radius * (1 - 1e-6):
            system = np.vstack([system, normal])
            missing = np.append(missing, radius - normal @ row[support])
        change = np.linalg.lstsq(system, missing, rcond=1e-12)[0]
        if (np.sign(row[support] + change) == np.sign(row[support])).all():
            row[support] += change
        inside = ball > 0
        row[inside] = shrink_into_ball(row[inside], radius, ball[inside])
    return problem.tensor(result)


def _supporting(problem: SampleProblem, w: Tensor, mu: Tensor) -> Tensor:
    """Return the smallest θ with Φⱼᵀθ = sⱼ(pⱼ + μaⱼ) on the support of w: the dual point, if its signs are right."""
    transposed, kink = problem.design.transposed_array, problem.penalty.expanded(problem.shape)[0].cpu().numpy()
    price, theta = problem.ball_prices.cpu().numpy(), np.zeros((len(w), transposed.shape[1]))
    for i, row in enumerate(w.cpu().numpy()):
        support = np.flatnonzero(row)
        slope = np.sign(row[support]) * (kink[i, support] + float(mu[i]) * price[support])
        if len(support) <= MOST_SUPPORTING:
            theta[i] = np.linalg.lstsq(transposed[support], slope, rcond=1e-12)[0]
    return problem.tensor(theta)


def _dual_point(problem: SampleProblem, v: Tensor, along: Tensor, kink: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best t and μ of a feasible dual point t·θ, from v = Φᵀθ (r, k) and zᵀθ; (r,) each."""
    size = problem.on_support(v).abs()
    outside, inside = problem.outside_ball, problem.ball_columns
    t = (size[:, outside] / kink[:, outside]).amax(1) if len(outside) else torch.ones_like(size[:, 0])
    t = t.clamp(min=1.0).reciprocal()
    if not len(inside):
        return t, torch.zeros_like(t)
    needed = (t[:, None] * size[:, inside] - kink[:, inside]) / problem.ball_weights
    mu = needed.amax(1).clamp(min=0)
    # As in the row problem, a slack ball is better proved with μ = 0 and all columns scaled.
    everywhere = (size / kink).amax(1).clamp(min=1.0).reciprocal()
    slack = everywhere * along >= t * along - problem.radius[:, 0] * mu
    return torch.where(slack, everywhere, t), torch.where(slack, 0.0, mu)


def _floored(problem: SampleProblem, found: BlockSolution) -> Array:
    """Return the objective, or a millionth of Σ|wⱼ| at the largest price, below which float64 cannot tell it from 0."""
    price = (float(problem.penalty.kink.max()) if problem.penalty.kink.numel() else 0.0) or 1.0
    least = 1e-6 * price * torch.from_numpy(found.coefficients).abs().sum(1).numpy()
    return np.maximum(np.maximum(found.objective, least), np.finfo(float).tiny)
