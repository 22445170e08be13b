"""``simplicit solve``: many row problems from files, each certified."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from simplicit.cli.console import command_line, figures_table, print_json, saved, say, show_progress
from simplicit.cli.options import (
    PENALTY_PANEL,
    Alpha,
    Beta,
    BlockRows,
    BlockTimeout,
    ExecutorOption,
    Gamma,
    JournalOption,
    Json,
    Overwrite,
    PenaltyName,
    PenaltyOption,
    RayAddress,
    Resume,
    Rounds,
    Throw,
    Tol,
    Workers,
    check_resumable,
    parse_part,
)
from simplicit.errors import InputError
from simplicit.report import can_draw, draw_path, draw_solution
from simplicit.rows import RowStatus, Solution
from simplicit.runs.folder import check_output
from simplicit.runs.rowfiles import run_part, run_solve
from simplicit.runs.solutions import PICTURE, save_solve
from simplicit.runs.solving import SMALLEST, SolveRun, SolveSettings

__all__ = ["solve_command", "write_and_tell"]

_ROWS = "Rows"
_RUNNING = "Running"
_DEFAULT = SolveSettings("", "")
_LISTED = 8


class SolverName(StrEnum):
    """Who solves the rows."""

    ACTIVE_SET = "active-set"
    REFERENCE = "reference"


def solve_command(
    context: typer.Context,
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="Φ, a .npy file of shape (m, d).")],
    targets: Annotated[
        Path, typer.Argument(metavar="TARGETS", help="A .npy file of shape (m, r), one column per row problem.")
    ],
    penalty: PenaltyOption = PenaltyName.L1,
    beta: Beta = None,
    alpha: Alpha = None,
    gamma: Gamma = None,
    rounds: Rounds = _DEFAULT.rounds,
    strengths: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Solve a path of N strengths of the penalty, from the least at which all rows are zero downwards.",
            rich_help_panel=PENALTY_PANEL,
            show_default=False,
        ),
    ] = None,
    smallest: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help=f"The last strength of the path, as a share of the first. Default: {SMALLEST:g}.",
            rich_help_panel=PENALTY_PANEL,
            show_default=False,
        ),
    ] = None,
    weight: Annotated[float, typer.Option(help="λ, the weight of ‖z − Φw‖².", rich_help_panel=_ROWS)] = _DEFAULT.weight,
    kappa: Annotated[
        float | None,
        typer.Option(
            help="Bound on the ℓ1 norm of each row. Default: none.", rich_help_panel=_ROWS, show_default=False
        ),
    ] = None,
    ball_columns: Annotated[
        str | None,
        typer.Option(
            metavar="START:STOP",
            help="Columns that the bound sums over, STOP excluded. Default: all.",
            rich_help_panel=_ROWS,
            show_default=False,
        ),
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            help="A .npy file of booleans, (d,) or (r, d): the columns that may be used. Default: all.",
            rich_help_panel=_ROWS,
            show_default=False,
        ),
    ] = None,
    intercept: Annotated[
        bool, typer.Option("--intercept", help="Fit an unpenalised constant in each row too.", rich_help_panel=_ROWS)
    ] = _DEFAULT.intercept,
    tol: Tol = _DEFAULT.tol,
    throw: Throw = _DEFAULT.throw,
    solver: Annotated[
        SolverName,
        typer.Option(
            help="The library's own, or CVXPY and Clarabel for a second opinion, thousands of times slower.",
            rich_help_panel=_RUNNING,
        ),
    ] = SolverName.ACTIVE_SET,
    executor: ExecutorOption = _DEFAULT.executor,
    workers: Workers = _DEFAULT.workers,
    block_rows: BlockRows = _DEFAULT.block_rows,
    ray_address: RayAddress = _DEFAULT.ray_address,
    block_timeout: BlockTimeout = _DEFAULT.block_timeout,
    journal: JournalOption = None,
    resume: Resume = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Solve the I-th of N shares of the blocks into --journal, and write no folder: one task of a job "
            "array. `simplicit journal merge` makes the folder of them.",
            rich_help_panel=_RUNNING,
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where the batched part runs: cpu or cuda.", rich_help_panel=_RUNNING)
    ] = _DEFAULT.device,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/solve"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Solve many constrained lassos that share a design, each to a proven duality gap.

    Row by row: minimise λ‖z − Φw‖² + h(w), ‖w‖₁ at most κ on some columns, w zero off its support. The files are mapped
    into memory: Φ may be larger than it if it has more samples than columns and is not to be matched exactly.

    The folder written holds coefficients.safetensors (sparse rows; simplicit.runs.solutions.load_coefficients
    reads them), rows.json with the certificate of every row, run.json with settings, versions and hashes and, with the
    extra `report` installed, picture.png.

    Example: `simplicit solve features.npy targets.npy --beta 0.1 --kappa 0.99 --ball-columns 0:112`
    """
    settings = SolveSettings(
        features=str(features),
        targets=str(targets),
        penalty=penalty.value,
        beta=beta,
        alpha=alpha,
        gamma=gamma,
        weight=weight,
        kappa=kappa,
        ball_columns=ball_columns,
        support=None if support is None else str(support),
        intercept=intercept,
        tol=tol,
        rounds=rounds,
        strengths=strengths,
        smallest=smallest,
        solver=solver.value,
        executor=executor,
        workers=workers,
        block_rows=block_rows,
        ray_address=ray_address,
        block_timeout=block_timeout,
        device=device,
        throw=throw,
    )
    check_resumable(journal, resume=resume)
    if part is not None:
        _solve_part(settings, parse_part(part), journal, json=json)
        return
    read = [path for path in (features, targets, support, journal) if path is not None]
    check_output(output, overwrite=overwrite, kind="solve", inputs=read)
    with show_progress() as steps:
        run = run_solve(settings, journal=journal, progress=steps)
    write_and_tell(run, output, command=command_line(context), overwrite=overwrite, json=json)


def _solve_part(settings: SolveSettings, part: tuple[int, int], journal: Path | None, *, json: bool) -> None:
    if journal is None:
        raise InputError("part: name the journal that keeps its blocks with --journal")
    with show_progress() as steps:
        state = run_part(settings, part, journal=journal, progress=steps)
    if json:
        print_json({"journal": journal, "part": part, "blocks": state.blocks, "missing": state.missing})
    else:
        say(f"Part {part[0]} of {part[1]} is solved. In {journal}: {state}.")


def write_and_tell(run: SolveRun, output: Path, *, command: list[str], overwrite: bool, json: bool) -> None:
    """Write the folder of a solve, and print its figures."""
    save_solve(run, output, command=command, overwrite=overwrite, draw=_draw if can_draw() else None)
    if json:
        print_json({"folder": output} | run.results())
        return
    say(_table(run), "", *_remarks(run), saved(output, PICTURE))


def _draw(run: SolveRun, path: Path) -> None:
    if len(run.members) == 1:
        draw_solution(path, run.members[0].solution, tol=run.settings.tol)
        return
    label = "2√(αγ), slope of the penalty at 0" if "gamma" in run.settings.numbers else "beta"
    kinks = [member.kink for member in run.members]
    draw_path(path, kinks, [member.solution for member in run.members], tol=run.settings.tol, label=label)


def _table(run: SolveRun) -> Any:
    settings, (rows, columns) = run.settings, run.shape
    ball = (
        "no ball" if settings.kappa is None else f"κ = {settings.kappa:g} on columns {settings.ball_columns or 'all'}"
    )
    title = f"{rows:,} rows × {columns:,} columns, {run.samples:,} samples; {settings.penalty}, {ball}"
    names = list(settings.numbers)
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
            *([f"{value:.4g}" for value in member.numbers.values()] or [settings.penalty]),
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
    told = [f"{done} in {spent:.2f} s; processor time: {stages}." for done, spent in took.items() if spent is not None]
    for number, member in enumerate(run.members):
        where = "" if len(run.members) == 1 else f" of member {number}"
        told += [_unproved(member.solution, status, where) for status in np.unique(member.solution.status) if status]
    return told


def _unproved(solution: Solution, status: int, where: str) -> str:
    found = np.flatnonzero(solution.status == status).tolist()
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    kind = RowStatus(int(status))
    rows = ", ".join(map(str, found[:_LISTED])) + more
    return f"Not certified: row{'s' if len(found) > 1 else ''} {rows}{where} ({kind.name.lower()}): {kind.advice}."
