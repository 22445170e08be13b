"""The sections of row_solver.py that need the Fashion-MNIST family: family, peers, path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from floors import floor_seconds, median_of
from measures import Measured, compare, measure
from peer_runs import CONSTRAINED, UNCONSTRAINED, run_peer
from problems import STRENGTHS, FashionFamily, Problem
from results import PHASES, say

import simplicit as sp


@dataclass(frozen=True)
class Options:
    """What the command line decides for every section."""

    repeats: int
    rows: int | None
    samples: tuple[int, ...]
    peer_samples: tuple[int, ...]
    peers: tuple[str, ...]
    limit: float
    results: Path
    shrink: int


def measured(problem: Problem, solution: sp.Solution) -> Measured:
    """Objective and gap of our coefficients, by the benchmark's own formula."""
    return measure_dense(problem, solution.coefficients.toarray())


def measure_dense(problem: Problem, w: Any) -> Measured:
    features, targets = problem.features, problem.targets
    return measure(features, targets, w, problem.weight, problem.beta, problem.kappa, problem.n_ball)


def figures(problem: Problem, repeats: int, *, blocks: bool = False) -> tuple[dict[str, Any], sp.Solution]:
    """Ours and the floor on one problem: medians, ratio, independent certificate, phases."""
    seconds, solution = median_of(repeats, problem.solve)
    independent = measured(problem, solution)
    floor = floor_seconds(problem.features, solution.coefficients, repeats, blocks=blocks)
    (m, d), r = problem.features.shape, problem.targets.shape[1]
    return {
        "samples": m,
        "columns": d,
        "rows": r,
        "lambda": problem.weight,
        "beta": problem.beta,
        "seconds": seconds,
        **floor,
        "ratio": seconds / floor["floor_seconds"],
        "converged": int(solution.converged.sum()),
        "largest_relative_gap": float(independent.relative.max()),
        "rows_with_larger_gap": int((independent.relative > 1e-6).sum()),
        "largest_ball_excess": float(independent.excess.max()),
        "ball_binds": int((solution.multiplier > 0).sum()),
        "non_zeros": int(solution.coefficients.nnz),
        "largest_support": int(np.diff(solution.coefficients.indptr).max()),
        "phases": {name: solution.timings.get(name, 0.0) for name in PHASES},
    }, solution


def family(states: FashionFamily, options: Options) -> list[dict[str, Any]]:
    """All sample sizes and strengths: time, floor, gap."""
    rows = []
    for m in options.samples:
        for weight, beta in STRENGTHS:
            problem = states.problem(m, weight, beta).with_rows(options.rows)
            rows.append(figures(problem, options.repeats)[0])
            say(f"family m={m} ({weight}, {beta}): {rows[-1]['seconds']:.2f} s, {rows[-1]['ratio']:.1f} x the floor")
    return rows


def peers(states: FashionFamily, options: Options) -> list[dict[str, Any]]:
    """Ours against every peer on the same rows: with the ball for torchidl, without it for the others."""
    rows = []
    for m in options.peer_samples:
        for weight, beta in STRENGTHS[:2]:
            constrained = states.problem(m, weight, beta).with_rows(options.rows)
            for problem, names in ((constrained, CONSTRAINED), (constrained.without_ball(), UNCONSTRAINED)):
                chosen = [name for name in names if name in options.peers]
                if chosen:
                    rows += _against(problem, chosen, options)
    return rows


def _against(problem: Problem, names: list[str], options: Options) -> list[dict[str, Any]]:
    ours, solution = figures(problem, options.repeats)
    mine, rows = measured(problem, solution), []
    for name in names:
        say(f"peers m={ours['samples']} ({problem.weight}, {problem.beta}): {name}, at most {options.limit:.0f} s")
        run = run_peer(name, problem, options.limit)
        total = run.seconds_for_all
        rows.append(
            {
                "peer": name,
                "versions": run.versions,
                "ball": problem.kappa is not None,
                "samples": ours["samples"],
                "columns": ours["columns"],
                "rows": ours["rows"],
                "lambda": problem.weight,
                "beta": problem.beta,
                "seconds": ours["seconds"],
                "converged": ours["converged"],
                "largest_relative_gap": ours["largest_relative_gap"],
                "peer_seconds": run.seconds,
                "peer_rows_solved": int(run.solved.sum()),
                "peer_finished": run.finished,
                "peer_seconds_for_all": total,
                "extrapolated": total is not None and not run.solved.all(),
                "ratio": None if total is None else total / ours["seconds"],
                **compare(mine, measure_dense(problem, run.coefficients), run.solved),
            }
        )
        ratio = "failed" if total is None else f"{rows[-1]['ratio']:.3g} x ours"
        say(f"  {run.seconds:.1f} s, {int(run.solved.sum())}/{len(run.solved)} rows, {run.finished}: {ratio}")
    return rows


def path(states: FashionFamily, options: Options, count: int = 20) -> list[dict[str, Any]]:
    """`count` strengths from the largest β_max down to a thousandth of it, against the hardest one solved alone."""
    rows = []
    for m in (500, 1000):
        base = states.problem(m, *STRENGTHS[0]).with_rows(options.rows)
        beta_max = float(2 * base.weight * np.abs(base.features.T @ base.targets).max())
        strengths = np.geomspace(beta_max, 1e-3 * beta_max, count)
        penalties = [sp.L1(float(beta)) for beta in strengths]
        seconds, found = median_of(options.repeats, partial(base.solve_path, penalties))
        alone = [median_of(1, partial(base.solve, penalty=penalty))[0] for penalty in penalties]
        hardest = int(np.argmax(alone))
        cold, _ = median_of(options.repeats, partial(base.solve, penalty=penalties[hardest]))
        gaps = [
            measure(
                base.features, base.targets, s.coefficients.toarray(), base.weight, float(b), base.kappa, base.n_ball
            ).relative
            for s, b in zip(found, strengths, strict=True)
        ]
        rows.append(
            {
                "samples": m,
                "columns": base.features.shape[1],
                "rows": base.targets.shape[1],
                "lambda": base.weight,
                "strengths": strengths.tolist(),
                "seconds": seconds,
                "hardest": hardest + 1,
                "hardest_seconds": cold,
                "ratio": seconds / cold,
                "all_cold_seconds": float(sum(alone)),
                "cold_seconds": alone,
                "converged": int(sum(s.converged.sum() for s in found)),
                "problems": count * base.targets.shape[1],
                "largest_relative_gap": float(np.max(gaps)),
                "non_zeros": [int(s.coefficients.nnz) for s in found],
            }
        )
        say(f"path m={m}: {seconds:.2f} s, {rows[-1]['ratio']:.1f} x its hardest member")
    return rows
