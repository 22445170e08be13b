"""``simplicit report``: one page from the saved numbers of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simplicit.cli.console import command_line, print_json, say
from simplicit.cli.options import Json, Overwrite
from simplicit.runs.folder import check_output
from simplicit.runs.gathering import gather
from simplicit.runs.reporting import PAGE, save_report

__all__ = ["report_command"]


def report_command(
    context: typer.Context,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Folders that `simplicit fit`, `attack` and `certify` wrote, in any order.",
            show_default=False,
        ),
    ],
    title: Annotated[str, typer.Option(help="Of the page.", rich_help_panel="Output")] = "simplicit: finished runs",
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/report"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Put finished runs beside each other on one page: sparsity and accuracy, robustness, patterns, gaps, layers.

    The page is made of the saved numbers alone; nothing is computed anew. It holds its pictures and needs nothing from
    elsewhere, so that it can be sent as one file; the pictures lie beside it as PNG too.

    Example: `simplicit report runs/fit runs/attack runs/certify --output runs/report`
    """
    check_output(output, overwrite=overwrite, kind="report", inputs=runs)
    found = gather(runs)
    save_report(found, output, title=title, runs=runs, command=command_line(context), overwrite=overwrite)
    if json:
        print_json({"folder": output, "page": output / PAGE})
    else:
        say(f"Saved in {output}. Open {output / PAGE} in a browser.")
