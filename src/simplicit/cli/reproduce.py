"""``simplicit reproduce``: the paper's figures and tables again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from simplicit.cli.console import command_line, print_json, saved, say, show_progress, shown
from simplicit.cli.options import DataDir, Json, Overwrite, Workers
from simplicit.data import Dataset, load_dataset
from simplicit.executors import EXECUTORS
from simplicit.progress import OnProgress
from simplicit.runs.folder import check_output
from simplicit.runs.mlp import parse_arch
from simplicit.studies.figure5 import Figure5Settings, figure5_study, run_figure5
from simplicit.studies.study import KIND, Study

__all__ = ["figure5_command", "reproduce_app", "reproduce_study"]

_DEFAULT = Figure5Settings()
_MEASURED = "What is measured"

reproduce_app = typer.Typer(rich_markup_mode="markdown")


@reproduce_app.callback(invoke_without_command=True)
def reproduce(context: typer.Context) -> None:
    """Redo the paper's figures and tables."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def reproduce_study(
    context: typer.Context,
    run: Callable[[Dataset, OnProgress], Study],
    *,
    data: str,
    data_dir: Path | None,
    output: Path,
    overwrite: bool,
    json: bool,
) -> None:
    """Run a study on named data, write its folder, and print its tables."""
    check_output(output, overwrite=overwrite, kind=KIND)
    dataset = load_dataset(data, data_dir)
    with show_progress(clock=True) as steps:
        study = run(dataset, steps)
    study.save(output, dataset, command=command_line(context), overwrite=overwrite)
    if json:
        print_json({"folder": output} | dict(study.figures))
        return
    tables = [shown(table) for table in study.tables]
    say(*tables, "", *study.notes, saved(output, study.picture) if study.picture else f"Saved in {output}.")


@reproduce_app.command("figure5")
def figure5_command(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="digits, fashion-mnist, or a folder or .npz file with your own arrays.")
    ] = "fashion-mnist",
    data_dir: DataDir = None,
    arch: Annotated[
        str,
        typer.Option(
            metavar="WIDTHS",
            help="Hidden layers of the network; their sum is the number of rows.",
            rich_help_panel=_MEASURED,
        ),
    ] = "64-32-16",
    samples: Annotated[int, typer.Option(help="Training samples.", rich_help_panel=_MEASURED)] = _DEFAULT.samples,
    executor: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help=f"Repeat for several of {', '.join(EXECUTORS)}. Default: all that are installed.",
            rich_help_panel=_MEASURED,
            show_default=False,
        ),
    ] = [],  # noqa: B006 - Typer takes lists
    workers: Workers = None,
    repeats: Annotated[
        int, typer.Option(help="Warm runs of each executor; the median counts.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.repeats,
    epochs: Annotated[
        int, typer.Option(help="Of the network's training.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.epochs,
    seed: Annotated[int, typer.Option(help="Of training and samples.", rich_help_panel=_MEASURED)] = _DEFAULT.seed,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/figure5"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Figure 5: the same rows by every executor, in wall-clock time, and equal to the bit.

    Each executor solves the state rows of a network cold, its workers to be started first, and warm, with those of the
    call before; and a problem of no size, whose time is what the executor costs by itself. The folder written holds
    figure5.json, figure5.md, run.json and, with the extra `report` installed, figure5.png. Run it on a quiet machine.

    Example: `simplicit reproduce figure5 --data-dir data --output runs/figure5`
    """
    settings = Figure5Settings(parse_arch(arch), samples, tuple(executor), workers, repeats, epochs, seed)
    reproduce_study(
        context,
        lambda dataset, progress: figure5_study(run_figure5(dataset, settings, progress=progress)),
        data=data,
        data_dir=data_dir,
        output=output,
        overwrite=overwrite,
        json=json,
    )
