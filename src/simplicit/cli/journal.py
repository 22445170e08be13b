"""``simplicit journal``: what is in a journal, and the solution of what its parts have solved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, print_json, say, show_progress
from simplicit.cli.shared import Output
from simplicit.cli.solve import print_figures
from simplicit.executors import Journal, Section
from simplicit.progress import counted, phase
from simplicit.runs.rowfiles import merge_solve
from simplicit.runs.solutions import save_solve


def show(journal: Path, /, *, json: bool = False) -> None:
    """Say what a journal is of, and which of its blocks are finished; every one is read and its checksum proved.

    Example: `simplicit journal show runs/journal`

    Parameters
    ----------
    journal : Path
        Folder that --journal named.
    json : bool
        Print one JSON document on standard output, and nothing else.
    """
    opened = Journal.read(journal)
    with show_progress():
        solves = [_solve(section) for section in opened.sections()]
    facts = {name: opened.facts.get(name) for name in ("kind", "key", "versions")}
    if json:
        print_json({"journal": journal} | facts | {"solves": solves})
        return
    names = ("rows", "columns", "blocks", "finished", "damaged")
    table = figures_table("solve", *names)
    for solve in solves:
        table.add_row(solve["key"][:16], *(f"{solve[name]:,}" for name in names))
    versions = ", ".join(f"{name} {version}" for name, version in (facts["versions"] or {}).items())
    say(f"Journal of a {facts['kind']} ({versions})", table)


def _solve(section: Section) -> dict[str, Any]:
    """How far one solve is."""
    numbers = section.numbers()
    whole = sum(map(section.intact, counted(numbers, "blocks", len(numbers))))
    facts = {name: int(section.facts.get(name, 0)) for name in ("rows", "columns", "blocks")}
    return {"key": section.key} | facts | {"finished": whole, "damaged": len(numbers) - whole}


def merge(
    journals: list[Path],
    /,
    output: Output = Output(Path("runs/solve")),
    *,
    throw: bool | None = None,
) -> None:
    """Put the solution together that the parts of a solve have left in one journal or in several.

    The coefficients are those of `simplicit solve` with the same options, bit for bit. It is an error if a block is
    missing.

    Example: `simplicit journal merge runs/journal --output runs/solve`

    Parameters
    ----------
    journals : list of Path
        Folders that the parts of one solve have written.
    output
    throw : bool, optional
        Stop if a row misses its tolerance, or write it, marked. Default: as the parts did.
    """
    output.check("solve", journals)
    with show_progress():
        with phase("merging"):
            run = merge_solve(journals, throw=throw)
        save_solve(run, output.folder, **output.saving())
    print_figures(run, output)
