r"""Exact matching: basis pursuit by the method of multipliers, on the same row solver.

    min over w of Σⱼ pⱼ|wⱼ|   s.t.   Φw = z,   Σ_{j∈J} aⱼ|wⱼ| ≤ κ                                  (8), (9)

The method of multipliers solves row problems with a target that carries the multiplier y of Φw = z (for basis pursuit
it is Bregman iteration, which adds the residual back to the target; Yin, Osher, Goldfarb and Darbon 2008):

    w ← argmin ½‖z + y − Φw‖² + τ·h(w) under the ball,     y ← y + z − Φw

Each is solved to a certificate, and since the problem is a linear programme finitely many steps suffice. At its end θ =
(z + y − Φw)/τ is feasible in the dual  max zᵀθ − κμ  s.t. |Φⱼᵀθ| ≤ pⱼ + μaⱼ[j ∈ J], after scaling into it, so that

    gap(t, μ) = Σ pⱼ|wⱼ| − t·zᵀθ + κμ

proves the row. Whether any w matches at all is asked first: least squares under the ball, with its own certificate. A
row whose least residual is not zero up to rounding is infeasible, and comes back with the coefficients that have it.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.errors import InputError
from simplicit.rows.block import BlockSolution, RowStatus, solve_block
from simplicit.rows.penalties import NoPenalty
from simplicit.rows.problem import RowProblem

__all__ = ["solve_equality_block"]

Array = npt.NDArray[np.float64]

#: ‖z − Φw‖ up to this share of ‖z‖ counts as exact.
MATCHED = 1e-7
#: Steps of the method of multipliers, at most.
MAX_STEPS = 60
#: The strength τ of the first subproblem, as a share of the one at which its solution is zero.
FIRST_SHARE = 0.05


def solve_equality_block(problem: RowProblem, *, tol: float, start: Tensor | None = None) -> BlockSolution:
    """Solve a block of basis pursuits to relative gap ``tol``.

    Parameters
    ----------
    problem : RowProblem
        With an ℓ1 penalty that stands for the whole objective, and with samples.
    tol : float
    start : (r, k) tensor, optional
        Coefficients to begin from.

    Raises
    ------
    InputError
        If only the Gram matrix is known.
    """
    if problem.targets is None:
        raise InputError("features: exact matching needs the samples; pass arrays, not a Gram, for BasisPursuit")
    begun = time.perf_counter()
    least = _least_squares(problem)
    size = problem.energy.sqrt()
    feasible = torch.from_numpy(least.residual).to(size.device) <= MATCHED * size
    state = _Multipliers(problem, tol, least)
    rows = torch.nonzero(feasible & (size > 0))[:, 0]
    if len(rows):
        state.run(rows, start)
    # Of what cannot be matched, the nearest is returned.
    lost = torch.nonzero(~feasible)[:, 0].cpu().numpy()
    state.status[lost] = RowStatus.INFEASIBLE
    seconds = np.full(len(size), (time.perf_counter() - begun) / len(size))
    return replace(state.solution(), seconds=seconds)


def _least_squares(problem: RowProblem) -> BlockSolution:
    """The nearest that any coefficients come to the targets, under the ball and on the support."""
    nothing = NoPenalty().spread(*problem.shape).to(problem.cross)
    return solve_block(replace(problem, penalty=nothing), tol=1e-9)


class _Multipliers:
    """The method of multipliers on a block, and for every row the best certified coefficients."""

    #: Steps without a smaller gap after which a row is given up.
    PATIENCE = 6

    def __init__(self, problem: RowProblem, tol: float, least: BlockSolution) -> None:
        self.problem, self.tol = problem, tol
        rows = problem.shape[0]
        self.coefficients = least.coefficients.copy()
        self.residual, self.timings = least.residual.copy(), dict(least.timings)
        self.gap, self.objective, self.multiplier = np.full(rows, np.inf), np.zeros(rows), np.zeros(rows)
        self.status = np.full(rows, RowStatus.ROUND_LIMIT, dtype=np.int8)
        zero = problem.energy.cpu().numpy() == 0
        self.gap[zero], self.status[zero], self.coefficients[zero], self.residual[zero] = 0.0, 0, 0.0, 0.0

    def run(self, rows: Tensor, start: Tensor | None) -> None:
        """Step until every one of the rows is proved or given up."""
        problem = self.problem.select(rows)
        assert problem.targets is not None
        kink = problem.penalty.kink.expand(problem.shape).clamp(min=1e-12)
        strength = FIRST_SHARE * (problem.cross.abs() / kink).amax(1, keepdim=True)
        y = torch.zeros_like(problem.targets)
        w = None if start is None else start[rows]
        waited = torch.zeros(len(rows), dtype=torch.int64)
        for _ in range(MAX_STEPS):
            shifted = problem.with_targets(problem.targets + y)
            shifted = replace(shifted, penalty=replace(problem.penalty.scaled(strength, 1.0), equality=False))
            block = solve_block(shifted, tol=1e-9, start=w)
            w = torch.from_numpy(block.coefficients).to(y.device)
            y = problem.targets + y - self._image(problem, w)
            improved = self._certify(problem, rows, w, y / strength)
            for stage, seconds in block.timings.items():
                self.timings[stage] = self.timings.get(stage, 0.0) + seconds
            waited = torch.where(torch.from_numpy(improved), 0, waited + 1)
            self.status[rows[waited > self.PATIENCE].cpu().numpy()] = RowStatus.ACCURACY_LIMIT
            open_rows = torch.from_numpy(self.status[rows.cpu().numpy()] == RowStatus.ROUND_LIMIT)
            if not open_rows.any():
                break
            rows, waited, y, w, strength = (a[open_rows] for a in (rows, waited, y, w, strength))
            problem = problem.select(torch.nonzero(open_rows)[:, 0])

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
        t, mu = self._dual_point(problem, theta @ transposed.T, along)
        objective = problem.penalty.value(w)
        dual = t * along - problem.radius[:, 0] * mu
        residual = (targets - self._image(problem, w)).norm(dim=1)
        gap = (objective - dual).clamp(min=0)
        matched = residual <= 0.1 * MATCHED * problem.energy.sqrt()
        proven = torch.where(matched & gap.isfinite(), gap, torch.inf).cpu().numpy()
        index = rows.cpu().numpy()
        better = proven < self.gap[index]
        chosen = index[better]
        self.gap[chosen], self.coefficients[chosen] = proven[better], w.cpu().numpy()[better]
        self.objective[chosen], self.residual[chosen] = (a.cpu().numpy()[better] for a in (objective, residual))
        self.multiplier[chosen] = mu.cpu().numpy()[better]
        proved = proven <= self.tol * objective.cpu().numpy()
        self.status[index[proved]] = RowStatus.CONVERGED
        return np.asarray(better)

    def _dual_point(self, problem: RowProblem, v: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """The best t and μ of a feasible dual point t·θ, with v = Φᵀθ and zᵀθ; (r,) each."""
        v = v if problem.allowed is None else v * problem.allowed
        size, kink = v.abs(), problem.penalty.kink.expand(problem.shape).clamp(min=1e-12)
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
        floor = np.maximum(self.objective, np.finfo(float).tiny)
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
