"""``simplicit reproduce``: the paper's figures and tables again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import can_draw, command_line, figures_table, print_json, saved, say, show_progress
from simplicit.cli.options import DataDir, Json, Overwrite, Workers
from simplicit.data import load_dataset
from simplicit.executors import EXECUTORS
from simplicit.files import write_json
from simplicit.report import Bars, draw_bars
from simplicit.runs.folder import Manifest, check_output, run_folder
from simplicit.runs.mlp import parse_arch
from simplicit.studies.figure5 import Figure5, Figure5Settings, run_figure5

__all__ = ["figure5_command", "reproduce_app"]

_DEFAULT = Figure5Settings()
_MEASURED = "What is measured"
_FIGURES, _PICTURE = "figure5.json", "figure5.png"

reproduce_app = typer.Typer(rich_markup_mode="markdown")


@reproduce_app.callback(invoke_without_command=True)
def reproduce(context: typer.Context) -> None:
    """Redo the paper's figures and tables."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


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
    figure5.json, run.json and, with the extra `report` installed, figure5.png. Run it on a quiet machine.

    Example: `simplicit reproduce figure5 --data-dir data --output runs/figure5`
    """
    settings = Figure5Settings(parse_arch(arch), samples, tuple(executor), workers, repeats, epochs, seed)
    check_output(output, overwrite=overwrite, kind="reproduce")
    dataset = load_dataset(data, data_dir)
    with show_progress("elapsed") as on_step:
        found = run_figure5(dataset, settings, on_step=on_step)
    with run_folder(output, overwrite=overwrite, kind="reproduce") as draft:
        write_json(draft / _FIGURES, found.figures())
        if can_draw():
            _draw(found, draft / _PICTURE)
        Manifest(
            "reproduce",
            command=command_line(context),
            settings={"figure": 5, "data": data} | {name: getattr(settings, name) for name in _SETTINGS},
            inputs={"data": dataset.describe()},
            seconds={one.executor: one.cold + sum(one.warm) for one in found.timed},
            results=found.figures(),
            packages=("ray",) if "ray" in settings.chosen else (),
        ).write(draft)
    if json:
        print_json({"folder": output} | found.figures())
        return
    say(_table(found), "\nAll coefficients are equal, to the bit.", saved(output, _PICTURE))


_SETTINGS = ("arch", "samples", "executors", "workers", "repeats", "epochs", "seed")


def _draw(found: Figure5, path: Path) -> None:
    names, (rows, columns, samples) = [one.executor for one in found.timed], found.shape
    cold, fixed = [one.cold for one in found.timed], [one.least_cold for one in found.timed]
    title = f"{rows:,} rows × {columns:,} columns, {samples:,} samples"
    draw_bars(
        path,
        Bars("First call, workers started for it", names, cold, fixed),
        Bars(f"Next calls: {title}", names, [one.seconds for one in found.timed]),
    )


def _table(found: Figure5) -> Any:
    rows, columns, samples = found.shape
    table = figures_table(
        "executor",
        "workers",
        "warm",
        "speed-up",
        "cold",
        "fixed, warm",
        "fixed, cold",
        title=f"{rows:,} rows × {columns:,} columns, {samples:,} samples, {found.certified:,} certified; seconds",
    )
    for one in found.timed:
        factor = found.speedup(one)
        table.add_row(
            one.executor,
            str(one.workers),
            f"{one.seconds:.3f}",
            "" if factor is None else f"× {factor:.2f}",
            f"{one.cold:.3f}",
            f"{one.least_warm:.3f}",
            f"{one.least_cold:.3f}",
        )
    return table
