"""``simplicit solve``: many row problems from files, each certified."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from simplicit.checks import refused
from simplicit.cli.console import figures_table, print_json, saved, say, show_progress
from simplicit.cli.invocation import invocation
from simplicit.cli.shared import Keeping, Output
from simplicit.rows import L1, RowStatus, Solution
from simplicit.runs.rowfiles import run_part, run_solve
from simplicit.runs.solutions import PICTURE, save_solve
from simplicit.runs.solving import SolveRun, SolveSettings

#: Rows that a remark lists.
_LISTED = 8


def parse_part(text: str) -> tuple[int, int]:
    """``"3/16"`` to ``(3, 16)``; InputError for anything but a number and a count with a slash between."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise refused("part", f"expected I/N with 1 <= I <= N, such as 3/16, got {text!r}")
    return int(found[1]), int(found[2])


def solve(
    settings: SolveSettings,
    keeping: Keeping = Keeping(),
    output: Output = Output(Path("runs/solve")),
    *,
    part: Annotated[str | None, "Running"] = None,
) -> None:
    """Solve many constrained lassos that share a design, each to a proven duality gap.

    Row by row: minimise λ‖z − Φw‖² + h(w), ‖w‖₁ at most κ on some columns, w zero off its support. The files are mapped
    into memory: Φ may be larger than it if it has more samples than columns and is not to be matched exactly.

    The folder written holds coefficients.safetensors (sparse rows; simplicit.runs.solutions.load_coefficients reads
    them), rows.json with the certificate of every row, run.json with settings, versions and hashes and, with the extra
    `report` installed, picture.png.

    Example: `simplicit solve features.npy targets.npy --beta 0.1 --kappa 0.99 --ball-columns 0:112`

    Parameters
    ----------
    settings, keeping, output
    part : str, optional
        I/N: solve the I-th of N shares of the blocks into --journal, and write no folder: one task of a job array.
        `simplicit journal merge` makes the folder of them.
    """
    if settings.strengths is not None and isinstance(settings.penalty, L1) and "beta" in invocation().given:
        raise refused("beta", "a path of l1 sets beta itself, from the largest that matters; leave beta out")
    if part is not None:
        _solve_part(settings, parse_part(part), keeping.journal, json=output.json)
        return
    output.check("solve", [*settings.files.values(), *([keeping.journal] if keeping.journal else [])])
    with show_progress() as steps:
        run = run_solve(settings, journal=keeping.journal, progress=steps)
        save_solve(run, output.folder, **output.saving())
    print_figures(run, output)


def _solve_part(settings: SolveSettings, part: tuple[int, int], journal: Path | None, *, json: bool) -> None:
    if journal is None:
        raise refused("part", "name the journal that keeps its blocks with --journal")
    with show_progress() as steps:
        state = run_part(settings, part, journal=journal, progress=steps)
    if json:
        print_json({"journal": journal, "part": part, "blocks": state.blocks, "missing": state.missing})
    else:
        say(f"Part {part[0]} of {part[1]} is solved. In {journal}: {state}.")


def print_figures(run: SolveRun, output: Output) -> None:
    """Print the figures of a solve whose folder is written."""
    output.show(run.results(), _table(run), "", *_remarks(run), saved(output.folder, PICTURE))


def _table(run: SolveRun) -> Any:
    settings, (rows, columns) = run.settings, run.shape
    ball = (
        "no ball" if settings.kappa is None else f"κ = {settings.kappa:g} on columns {settings.ball_columns or 'all'}"
    )
    title = f"{rows:,} rows × {columns:,} columns, {run.samples:,} samples; {type(settings.penalty).__name__}, {ball}"
    names = list(run.members[0].numbers)
    table = figures_table(
        *(names or ["penalty"]),
        "certified",
        "largest relative gap",
        "non-zeros",
        "of all",
        "zero rows",
        "seconds",
        title=title,
    )
    table.columns[0].justify = "right"
    for member in run.members:
        solution = member.solution
        table.add_row(
            *([f"{value:.4g}" for value in member.numbers.values()] or [str(settings.penalty)]),
            f"{int(solution.converged.sum()):,} of {rows:,}",
            f"{solution.relative_gap.max(initial=0.0):.1e}",
            f"{solution.coefficients.nnz:,}",
            f"{100 * solution.coefficients.nnz / (rows * columns):.3g} %",
            f"{int((solution.nnz == 0).sum()):,}",
            f"{sum((earlier.seconds.sum() for earlier in solution.earlier), solution.seconds.sum()):.2f}",
        )
    return table


def _remarks(run: SolveRun) -> list[str]:
    """Where the time went, and the rows that are not certified."""
    stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in run.timings.items())
    took = {"Solved": run.seconds.get("solving"), "Merged": run.seconds.get("merging")}
    found = [f"{done} in {spent:.2f} s; processor time: {stages}." for done, spent in took.items() if spent is not None]
    for number, member in enumerate(run.members):
        where = "" if len(run.members) == 1 else f" of member {number}"
        found += [_unproved(member.solution, status, where) for status in np.unique(member.solution.status) if status]
    return found


def _unproved(solution: Solution, status: int, where: str) -> str:
    found = np.flatnonzero(solution.status == status).tolist()
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    kind = RowStatus(int(status))
    rows = ", ".join(map(str, found[:_LISTED])) + more
    return f"Not certified: row{'s' if len(found) > 1 else ''} {rows}{where} ({kind.name.lower()}): {kind.advice}."
