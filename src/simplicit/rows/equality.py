r"""Exact matching: basis pursuit by the method of multipliers, on the same row solver.

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
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.errors import InputError
from simplicit.rows.ball import shrink_into_ball
from simplicit.rows.block import solve_block
from simplicit.rows.outcome import BlockSolution, RowStatus, add_timings
from simplicit.rows.penalties import NoPenalty
from simplicit.rows.problem import RowProblem

__all__ = ["MATCHED", "prove_equality", "solve_equality_path"]

Array = npt.NDArray[np.float64]

#: ‖z − Φw‖ up to this share of ‖z‖ counts as exact.
MATCHED = 1e-7
#: Steps of the method of multipliers, at most.
MAX_STEPS = 60
#: The strength τ of the first and the last subproblems, as a share of the one at which the solution is zero, and the
#: factor between two of them.
FIRST_SHARE, LAST_SHARE, FALL = 1e-2, 1e-8, 0.1
#: Below this share residuals are so small that the subproblems are solved as far as float64 goes.
FINE_SHARE = 1e-6
#: The kink in the certificate of a column without a price, as a share of ‖θ‖.
LEAST_KINK = 1e-10
#: Supports up to this size are tried for a dual point of their own.
MOST_SUPPORTING = 2000


def solve_equality_path(
    problems: Sequence[RowProblem], *, tol: float, start: Tensor | None = None
) -> list[BlockSolution]:
    """Solve a block of basis pursuits to relative gap ``tol``, each from the one before.

    Parameters
    ----------
    problems : sequence of RowProblem
        With ℓ1 penalties that stand for the whole objective, and with samples.
    tol : float
    start : (r, k) tensor, optional
        Coefficients to begin from.

    Raises
    ------
    InputError
        If only the Gram matrix is known.
    """
    results: list[BlockSolution] = []
    for problem in problems:
        results.append(_solved(problem, tol, start))
        start = torch.from_numpy(results[-1].coefficients).to(problem.cross.device)
    return results


def _solved(problem: RowProblem, tol: float, start: Tensor | None) -> BlockSolution:
    if problem.targets is None:
        raise InputError("features: exact matching needs the samples; pass arrays, not a Gram, for BasisPursuit")
    begun = time.perf_counter()
    least = _least_squares(problem)
    size = problem.energy.sqrt().cpu().numpy()
    state = _Multipliers(problem, tol, least)
    # The least residual that is proved: ‖z − Φw‖² less twice the gap of ½‖z − Φw‖².
    proved = np.sqrt(np.maximum(least.residual**2 - 2 * least.dual_gap, 0.0))
    infeasible = (least.residual > MATCHED * size) & (proved > MATCHED * size)
    state.status[infeasible] = RowStatus.INFEASIBLE  # of these the nearest is returned
    rows = torch.from_numpy(np.flatnonzero(~infeasible & (size > 0))).to(problem.cross.device)
    if len(rows):
        state.run(rows, start)
    seconds = np.full(len(size), (time.perf_counter() - begun) / len(size))
    return replace(state.solution(), seconds=seconds)


def prove_equality(problem: RowProblem, block: BlockSolution, theta: Array, tol: float) -> BlockSolution:
    """The coefficients of a block, proved as exact matching by the dual points ``theta`` (r, m)."""
    state = _Multipliers(problem, tol, block)
    rows = torch.arange(problem.shape[0], device=problem.cross.device)
    w = torch.from_numpy(block.coefficients).to(rows.device)
    state._certify(problem, rows, state._matched(problem, w), torch.from_numpy(theta).to(rows.device))
    state.status[state.status == RowStatus.ROUND_LIMIT] = RowStatus.ACCURACY_LIMIT
    return replace(state.solution(), seconds=block.seconds)


def _least_squares(problem: RowProblem) -> BlockSolution:
    """The nearest that any coefficients come to the targets, under the ball and on the support."""
    # In full: of a tensor expanded from one entry torch's median, by which ADMM chooses its number type, is arbitrary.
    penalty = NoPenalty().spread(*problem.shape).to(problem.cross).scaled(torch.ones_like(problem.cross), 1.0)
    nothing = replace(problem, penalty=penalty)
    least = solve_block(nothing, tol=1e-9)
    missed = np.flatnonzero(least.residual > MATCHED * problem.energy.sqrt().cpu().numpy())
    if not len(missed) or max(problem.shape[1], len(problem.design.units)) > MOST_SUPPORTING:
        return least
    # Where columns are nearly dependent the normal equations lose digits that a singular value decomposition has.
    direct = _pseudo_inverse(problem, missed, least.coefficients[missed])
    rows = torch.from_numpy(missed).to(problem.cross.device)
    certificate = nothing.select(rows).certify(torch.from_numpy(direct).to(problem.cross.device))
    fit, _ = nothing.select(rows).residuals(torch.from_numpy(direct).to(problem.cross.device))
    residual = fit.sqrt().cpu().numpy()
    better = residual < least.residual[missed]
    chosen = missed[better]
    least.coefficients[chosen], least.residual[chosen] = direct[better], residual[better]
    least.dual_gap[chosen] = certificate.dual_gap.cpu().numpy()[better]
    return least


def _pseudo_inverse(problem: RowProblem, rows: npt.NDArray[np.intp], fallback: Array) -> Array:
    """The least squares of smallest norm on the support, where they lie in the ball."""
    transposed, targets = problem.design.rows_array, problem.targets
    assert transposed is not None
    assert targets is not None
    result, inside = fallback.copy(), problem.ball_columns.cpu().numpy()
    weights = problem.ball_weights.cpu().numpy()[0]
    for place, row in enumerate(rows.tolist()):
        allowed = slice(None) if problem.allowed is None else np.flatnonzero(problem.allowed[row].cpu().numpy())
        w = np.zeros(problem.shape[1])
        w[allowed] = np.linalg.lstsq(transposed[allowed].T, targets[row].cpu().numpy(), rcond=None)[0]
        if not len(inside) or np.abs(w[inside]) @ weights <= float(problem.radius[row, 0]):
            result[place] = w
    return result


class _Multipliers:
    """The method of multipliers on a block, and for every row the best certified coefficients."""

    #: Steps at the smallest τ without a smaller gap after which a row is given up.
    PATIENCE = 6

    def __init__(self, problem: RowProblem, tol: float, least: BlockSolution) -> None:
        self.problem, self.tol = problem, tol
        rows = problem.shape[0]
        self.coefficients = least.coefficients.copy()
        self.residual, self.timings = least.residual.copy(), dict(least.timings)
        self.gap, self.multiplier = np.full(rows, np.inf), np.zeros(rows)
        self.objective = (
            problem.penalty.value(torch.from_numpy(self.coefficients).to(problem.cross.device)).cpu().numpy()
        )
        self.status = np.full(rows, RowStatus.ROUND_LIMIT, dtype=np.int8)
        zero = problem.energy.cpu().numpy() == 0
        for part in (self.gap, self.status, self.coefficients, self.residual, self.objective):
            part[zero] = 0

    def run(self, rows: Tensor, start: Tensor | None) -> None:
        """Step until every one of the rows is proved or given up."""
        problem = self.problem.select(rows)
        assert problem.targets is not None
        kink = problem.penalty.kink.expand(problem.shape)
        scale = torch.where(kink > 0, problem.cross.abs() / kink, 0.0).amax(1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        y = torch.zeros_like(problem.targets)
        w = None if start is None else start[rows]
        # Where only one w matches, least squares has found it, and only the proof is missing.
        unique = torch.from_numpy(self.coefficients).to(y.device)[rows]
        self._certify(problem, rows, unique, self._supporting(problem, unique, torch.zeros_like(scale[:, 0])))
        waited = torch.zeros(len(rows), dtype=torch.int64)
        share = FIRST_SHARE
        for _ in range(MAX_STEPS):
            assert problem.targets is not None
            shifted = problem.with_targets(problem.targets + y)
            shifted = replace(shifted, penalty=replace(problem.penalty.scaled(share * scale, 1.0), equality=False))
            block = solve_block(shifted, tol=1e-9 if share > FINE_SHARE else 1e-15, start=w)
            w = torch.from_numpy(block.coefficients).to(y.device)
            y = problem.targets + y - self._image(problem, w)
            mu = torch.from_numpy(block.multiplier).to(y.device) / (share * scale)[:, 0]
            matched = self._matched(problem, w)
            improved = self._certify(problem, rows, matched, y / (share * scale))
            improved |= self._certify(problem, rows, matched, self._supporting(problem, matched, mu))
            # The multiplier stays, whatever the strength is that it is measured in.
            y, share = y * max(FALL, LAST_SHARE / share), max(FALL * share, LAST_SHARE)
            self.timings = add_timings([self.timings, block.timings])
            waited = torch.where(torch.from_numpy(improved), 0, waited + int(share <= LAST_SHARE))
            self.status[rows[waited > self.PATIENCE].cpu().numpy()] = RowStatus.ACCURACY_LIMIT
            open_rows = torch.from_numpy(self.status[rows.cpu().numpy()] == RowStatus.ROUND_LIMIT)
            if not open_rows.any():
                break
            rows, waited, y, w, scale = (a[open_rows] for a in (rows, waited, y, w, scale))
            problem = problem.select(torch.nonzero(open_rows)[:, 0])

    def _matched(self, problem: RowProblem, w: Tensor) -> Tensor:
        """The nearest coefficients on the support of ``w`` that match the target and keep a tight ball tight."""
        transposed, targets = problem.design.rows_array, problem.targets
        assert transposed is not None
        assert targets is not None
        ball = np.zeros(problem.shape[1])
        ball[problem.ball_columns.cpu().numpy()] = problem.ball_weights.cpu().numpy()[0]
        result = w.cpu().numpy().copy()
        for row, z, radius in zip(result, targets.cpu().numpy(), problem.radius[:, 0].tolist(), strict=True):
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
        return torch.from_numpy(result).to(w.device)

    def _supporting(self, problem: RowProblem, w: Tensor, mu: Tensor) -> Tensor:
        """The smallest θ with Φⱼᵀθ = sⱼ(pⱼ + μaⱼ) on the support of ``w``: the dual point, if its signs are right."""
        transposed, kink = problem.design.rows_array, problem.penalty.kink.expand(problem.shape).cpu().numpy()
        assert transposed is not None
        price = np.zeros(problem.shape[1])
        price[problem.ball_columns.cpu().numpy()] = problem.ball_weights.cpu().numpy()[0]
        theta = np.zeros((len(w), transposed.shape[1]))
        for i, row in enumerate(w.cpu().numpy()):
            support = np.flatnonzero(row)
            slope = np.sign(row[support]) * (kink[i, support] + float(mu[i]) * price[support])
            if len(support) <= MOST_SUPPORTING:
                theta[i] = np.linalg.lstsq(transposed[support], slope, rcond=1e-12)[0]
        return torch.from_numpy(theta).to(w.device)

    def _image(self, problem: RowProblem, w: Tensor) -> Tensor:
        transposed = problem.design.transposed
        assert transposed is not None
        return w @ transposed

    def _certify(self, problem: RowProblem, rows: Tensor, w: Tensor, theta: Tensor) -> npt.NDArray[np.bool_]:
        """Keep what has a smaller gap; returns where that was so."""
        transposed, targets = problem.design.transposed, problem.targets
        assert transposed is not None
        assert targets is not None
        along = (targets * theta).sum(1)
        least = LEAST_KINK * theta.norm(dim=1, keepdim=True)
        kink = problem.penalty.kink.expand(problem.shape)
        proving = torch.where(kink > 0, kink, least)
        t, mu = self._dual_point(problem, theta @ transposed.T, along, proving)
        objective = problem.penalty.value(w)
        dual = t * along - problem.radius[:, 0] * mu
        residual = (targets - self._image(problem, w)).norm(dim=1)
        gap = ((proving * w.abs()).sum(1) - dual + t * theta.norm(dim=1) * residual).clamp(min=0)
        matched = residual <= MATCHED * problem.energy.sqrt()
        proven = torch.where(matched & gap.isfinite(), gap, torch.inf).cpu().numpy()
        index = rows.cpu().numpy()
        better = proven < self.gap[index]
        chosen = index[better]
        self.gap[chosen], self.coefficients[chosen] = proven[better], w.cpu().numpy()[better]
        self.objective[chosen], self.residual[chosen] = (a.cpu().numpy()[better] for a in (objective, residual))
        self.multiplier[chosen] = mu.cpu().numpy()[better]
        proved = proven <= self.tol * _floored(problem, w, objective)
        self.status[index[proved]] = RowStatus.CONVERGED
        return np.asarray(better)

    def _dual_point(self, problem: RowProblem, v: Tensor, along: Tensor, kink: Tensor) -> tuple[Tensor, Tensor]:
        """The best t and μ of a feasible dual point t·θ, with v = Φᵀθ and zᵀθ; (r,) each."""
        v = v if problem.allowed is None else v * problem.allowed
        size = v.abs()
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

    def solution(self) -> BlockSolution:
        floor = _floored(
            self.problem, torch.from_numpy(self.coefficients).to(self.problem.cross.device), self.objective
        )
        return BlockSolution(
            coefficients=self.coefficients,
            objective=self.objective,
            dual_gap=self.gap,
            relative_gap=np.where(self.gap > 0, self.gap / floor, 0.0),
            cardinality_gap=np.full(len(self.gap), np.nan),
            multiplier=self.multiplier,
            residual=self.residual,
            status=self.status,
            seconds=np.zeros(len(self.gap)),
            timings=self.timings,
        )


def _floored(problem: RowProblem, w: Tensor, objective: Tensor | Array) -> Array:
    """The objective, or a millionth of Σ|wⱼ| at the largest price: below that float64 cannot tell it from zero."""
    price = (float(problem.penalty.kink.max()) if problem.penalty.kink.numel() else 0.0) or 1.0
    least = 1e-6 * price * w.abs().sum(1).cpu().numpy()
    given = objective.cpu().numpy() if isinstance(objective, Tensor) else objective
    return np.maximum(np.maximum(given, least), np.finfo(float).tiny)
