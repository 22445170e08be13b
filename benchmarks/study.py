"""A hundred thousand random row problems, and whether any of them breaks its certificate.

    python benchmarks/study.py                                    # 100,000 rows
    python benchmarks/study.py --rows 4000 --output build/trial    # a trial

The problems come from tests/families.py: every penalty, ball and kind of support, tall, wide and square, duplicate,
dependent and zero columns, zero targets, scales from 1e-8 to 1e8, both precisions; a tenth are given as Gram
statistics. The seed and the number of rows decide all of them. Every problem is solved at tol 1e-6 and again at 1e-9.

Counted for every row: converged; marked, because it did not reach the tolerance; infeasible (exact matching only).
Broken is a row with a NaN, off its support or outside its ball, with an objective that is not the one of its
coefficients, with a gap below zero, or with a gap smaller than what another feasible point gains: the solution at 1e-9,
zero, and for a sample of rows that of CVXPY and Clarabel (tests/reference.py). What float64 loses of an objective is
allowed for. Broken, too, is a row that is called infeasible at one tolerance alone, or although least squares without a
ball matches it. ``largest_excess`` is what the sample's objectives are above the reference, as a share of themselves;
more than 2e-6 counts as worse.

Writes results/study.json. Two processes, one thread each; the figures do not depend on their number.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # both are folders of scripts and no packages

from results import arguments, command, machine  # noqa: E402

import simplicit as sp  # noqa: E402
from families import RowCase, flaws, random_case, rounding  # noqa: E402
from reference import RowModel  # noqa: E402

ROWS_PER_PROBLEM = 5
#: Problems that a process takes at a time.
CHUNK = 20
#: One in so many problems is given as Gram statistics.
GRAM_EVERY = 10
GROUPS = ("penalty", "regime", "ball", "support")
#: A problem with less than this of its target left after centring is one of rounding alone.
NOTHING_LEFT = 1e-20


def main() -> None:
    options = parse()
    begun = time.perf_counter()
    problems = math.ceil(options.rows / ROWS_PER_PROBLEM)
    sampled_every = max(1, problems // max(1, options.reference))
    first = options.seed * 10**7
    jobs = [(first + number, number % sampled_every == 0 and options.reference > 0) for number in range(problems)]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    total = Totals()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for done, verdict in enumerate(pool.imap(studied, jobs, CHUNK), start=1):
            total.add(verdict)
            if done % 500 == 0 or done == problems:
                print(f"{done * ROWS_PER_PROBLEM} rows: {total.line()}", flush=True)
    report = total.report() | {
        "command": command(),
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begun, 1),
        "machine": machine(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "study.json").write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(1 if total.broken else 0)


def parse() -> argparse.Namespace:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=int, default=500, help="rows that are held against CVXPY and Clarabel")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def studied(job: tuple[int, bool]) -> dict[str, Any]:
    """What there is to say of one problem; never raises, for an exception is a finding too."""
    seed, referenced = job
    case = random_case(seed, rows=ROWS_PER_PROBLEM)
    verdict: dict[str, Any] = {"seed": seed, "label": case.label, "rows": [], "broken": [], "reference": None}
    try:
        judge(case, verdict, referenced)
    except Exception as error:
        verdict["rows"] = ["raised"] * ROWS_PER_PROBLEM
        verdict["broken"].append(f"{type(error).__name__}: {str(error)[:200]}")
    return verdict


def judge(case: RowCase, verdict: dict[str, Any], referenced: bool) -> None:
    """Solve twice and compare."""
    source = case
    exact = case.label["penalty"] == "BasisPursuit"
    streamed = verdict["seed"] % GRAM_EVERY == 0 and not exact
    if streamed:
        half = (len(case.features) + 1) // 2
        parts = [(case.features[rows], case.targets[rows]) for rows in (slice(0, half), slice(half, None))]
        source = case.with_changes(features=sp.Gram.from_batches(p for p in parts if len(p[0])))
        verdict["label"] = case.label | {"source": "Gram"}
    solution, finer = source.solve(), source.solve(tol=1e-9)
    names = {sp.rows.RowStatus.CONVERGED: "converged", sp.rows.RowStatus.INFEASIBLE: "infeasible"}
    verdict["rows"] = [names.get(sp.rows.RowStatus(status), "marked") for status in solution.status]
    verdict["broken"] = [flaw for each in (solution, finer) for flaw in flaws(case, each, streamed=streamed)]
    for i in range(case.n_rows):
        verdict["broken"] += broken_by(case, solution, finer, i, streamed=streamed)
    if referenced:
        verdict["reference"] = against_reference(case, solution, verdict, streamed=streamed)


def broken_by(case: RowCase, solution: sp.Solution, finer: sp.Solution, i: int, *, streamed: bool) -> list[str]:
    """Gaps of row i that the other solution, or zero, belies."""
    infeasible = [each.status[i] == sp.rows.RowStatus.INFEASIBLE for each in (solution, finer)]
    row, found = case.row(i), []
    if any(infeasible):
        if not all(infeasible):
            return [f"row {i}: infeasible at one tolerance and not at the other"]
        return [f"row {i}: called infeasible, and least squares matches"] if matches(row) else []
    values = [each.coefficients.toarray()[i] for each in (solution, finer)]
    allowed = sum(rounding(row, w, streamed=streamed) for w in values)
    exact = case.label["penalty"] == "BasisPursuit"
    if exact:
        if solution.residual[i] < finer.residual[i] or not solution.converged[i]:
            return []
        allowed = 1e-9 * float(solution.objective[i])
    gained = float(solution.objective[i] - finer.objective[i])
    if gained > solution.dual_gap[i] + allowed:
        found.append(f"row {i}: the gap is {solution.dual_gap[i]:.3e}, tol 1e-9 gains {gained:.3e}")
    if -gained > finer.dual_gap[i] + allowed and not exact:
        found.append(f"row {i}: at tol 1e-9 the gap is {finer.dual_gap[i]:.3e}, tol 1e-6 gains {-gained:.3e}")
    zero = np.zeros_like(values[0])
    constant = float(row.target.mean()) if row.intercept else 0.0
    if not exact and solution.objective[i] - row.objective(zero, constant) > solution.dual_gap[i] + allowed:
        found.append(f"row {i}: zero is better by more than the gap")
    return found


def matches(row: RowModel) -> bool:
    """Whether least squares on the support, which knows no ball, meets the target: then a row has no excuse."""
    if row.radius is not None:
        return False
    columns = np.flatnonzero(np.ones(row.features.shape[1]) if row.support is None else row.support)
    w = np.linalg.lstsq(row.features[:, columns], row.target, rcond=None)[0]
    return bool(np.linalg.norm(row.target - row.features[:, columns] @ w) <= 1e-9 * np.linalg.norm(row.target))


def against_reference(
    case: RowCase, solution: sp.Solution, verdict: dict[str, Any], *, streamed: bool
) -> dict[str, Any] | None:
    """The first row that is converged, by the twin; None if there is none, or if Clarabel fails."""
    for i in np.flatnonzero(solution.converged).tolist():
        row, w = case.row(i), solution.coefficients.toarray()[i]
        energy = row.weight * float(np.square(row.target - row.intercept * row.target.mean()).sum())
        if energy <= NOTHING_LEFT * row.weight * float(np.square(row.target).sum()):
            continue
        try:
            least, point = row.solve()
        except ArithmeticError:
            return {"failed": True}
        objective = float(solution.objective[i])
        if case.label["penalty"] == "BasisPursuit":
            return {"failed": False, "excess": (objective - least) / objective}
        # Clarabel's point, made feasible, has an objective that is above the least one whatever its accuracy.
        feasible = row.feasible(point)
        constant = float((row.target - row.features @ feasible).mean()) if row.intercept else 0.0
        gained = objective - row.objective(feasible, constant)
        allowed = rounding(row, w, streamed=streamed) + rounding(row, feasible)
        if gained > solution.dual_gap[i] + allowed:
            verdict["broken"].append(f"row {i}: the gap is {solution.dual_gap[i]:.3e}, CVXPY gains {gained:.3e}")
        return {"failed": False, "excess": gained / max(objective, 1e-6 * energy)}
    return None


class Totals:
    """Counts over all problems."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.groups: dict[str, dict[str, Counter[str]]] = {group: {} for group in GROUPS}
        self.broken: list[dict[str, Any]] = []
        self.excess: list[float] = []
        self.reference_failed = 0

    def add(self, verdict: dict[str, Any]) -> None:
        """Count one problem."""
        counts = Counter(verdict["rows"])
        self.rows += counts
        for group, table in self.groups.items():
            name = verdict["label"][group]
            table[name] = table.get(name, Counter()) + counts
        if verdict["broken"]:
            self.broken.append({name: verdict[name] for name in ("seed", "label", "broken")})
        if verdict["reference"]:
            self.reference_failed += verdict["reference"]["failed"]
            self.excess += [verdict["reference"]["excess"]] if not verdict["reference"]["failed"] else []

    def line(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.rows.items()))
        return f"{counts}, problems with a broken certificate {len(self.broken)}"

    def report(self) -> dict[str, Any]:
        """Everything, for the file."""
        return {
            "rows": sum(self.rows.values()),
            "counts": dict(sorted(self.rows.items())),
            "broken_problems": len(self.broken),
            "broken": self.broken[:50],
            "reference": {
                "rows": len(self.excess),
                "failed": self.reference_failed,
                "largest_excess": max(self.excess, default=0.0),
                "worse_than_reference": sum(excess > 2e-6 for excess in self.excess),
            },
            "groups": {
                group: {name: dict(sorted(table[name].items())) for name in sorted(table)}
                for group, table in self.groups.items()
            },
        }


if __name__ == "__main__":
    main()
