"""``simplicit journal``: what is in a journal, and the solution of what its parts have solved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, say
from simplicit.cli.options import Json, Overwrite
from simplicit.cli.solve import write_and_tell
from simplicit.executors import Journal, Section
from simplicit.runs.folder import check_output
from simplicit.runs.rowfiles import merge_solve

__all__ = ["journal_app"]

journal_app = typer.Typer(rich_markup_mode="markdown")


@journal_app.callback(invoke_without_command=True)
def journal(context: typer.Context) -> None:
    """Look into the journals of `solve` and `fit`, and merge those of the parts of a solve."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


@journal_app.command("show")
def show_command(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="Folder that --journal named.")], json: Json = False
) -> None:
    """Say what a journal is of, and which of its blocks are finished; every one is read and its checksum proved.

    Example: `simplicit journal show runs/journal`
    """
    opened = Journal.read(journal)
    solves = [_solve(section) for section in opened.sections()]
    facts = {name: opened.facts.get(name) for name in ("kind", "key", "versions")}
    if json:
        print_json({"journal": journal} | facts | {"solves": solves})
        return
    table = figures_table("solve", "rows", "columns", "blocks", "finished", "damaged")
    for solve in solves:
        names = ("rows", "columns", "blocks", "finished", "damaged")
        table.add_row(solve["key"][:16], *(f"{solve[name]:,}" for name in names))
    versions = ", ".join(f"{name} {version}" for name, version in (facts["versions"] or {}).items())
    say(f"Journal of a {facts['kind']} ({versions})", table)


def _solve(section: Section) -> dict[str, Any]:
    """How far one solve is."""
    numbers = section.numbers()
    whole = sum(section.intact(number) for number in numbers)
    facts = {name: int(section.facts.get(name, 0)) for name in ("rows", "columns", "blocks")}
    return {"key": section.key} | facts | {"finished": whole, "damaged": len(numbers) - whole}


@journal_app.command("merge")
def merge_command(
    context: typer.Context,
    journals: Annotated[
        list[Path], typer.Argument(metavar="JOURNAL", help="Folders that the parts of one solve have written.")
    ],
    throw: Annotated[
        bool | None,
        typer.Option(
            "--throw/--no-throw",
            help="Stop if a row misses its tolerance, or write it, marked. Default: as the parts were told.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/solve"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Put the solution together that the parts of a solve have left in one journal or in several.

    The coefficients are those of `simplicit solve` with the same options, bit for bit. It is an error if a block is
    missing.

    Example: `simplicit journal merge runs/journal --output runs/solve`
    """
    check_output(output, overwrite=overwrite, kind="solve", inputs=journals)
    run = merge_solve(journals, throw=throw)
    write_and_tell(run, output, command=command_line(context), overwrite=overwrite, json=json)
