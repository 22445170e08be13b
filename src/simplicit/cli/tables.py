"""``simplicit reproduce table2 | table3``: the paper's tables, by the letter and by a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simplicit.cli.options import DataDir, Json, Overwrite
from simplicit.cli.reproduce import reproduce_app, reproduce_study
from simplicit.studies.tables import TableSettings, run_table, table_study
from simplicit.training import PRESETS

__all__ = ["table2_command", "table3_command"]

_MEASURED = "What is measured"
_DEFAULT, _TABLE_3 = TableSettings(2), TableSettings(3)
Data = Annotated[
    str,
    typer.Option(help="Data with the form of Fashion-MNIST: digits, fashion-mnist, or a folder or .npz file."),
]
Preset = Annotated[
    str | None, typer.Option(metavar="|".join(PRESETS), help="Of the rows of our own.", rich_help_panel=_MEASURED)
]
Anchor = Annotated[
    float | None,
    typer.Option(
        help="Of the rows of our own, with the preset sparse: share of the baseline's weights that ridge draws to; low "
        "is robust. Default: 0.2.",
        rich_help_panel=_MEASURED,
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Repetitions, each with its own baseline and samples.", rich_help_panel=_MEASURED)
]
PgdSteps = Annotated[int, typer.Option(help="Of PGD.", rich_help_panel=_MEASURED)]
Attacked = Annotated[int, typer.Option(help="Test samples under attack.", rich_help_panel=_MEASURED)]
Epochs = Annotated[int, typer.Option(help="Of the baseline.", rich_help_panel=_MEASURED)]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder to write. Default: runs/table2 or runs/table3.", rich_help_panel="Output"),
]


@reproduce_app.command("table2")
def table2_command(
    context: typer.Context,
    data: Data = "fashion-mnist",
    data_dir: DataDir = None,
    preset: Preset = _DEFAULT.preset,
    anchor: Anchor = None,
    seeds: Seeds = _DEFAULT.seeds,
    pgd_steps: PgdSteps = _DEFAULT.pgd_steps,
    attack_samples: Attacked = _DEFAULT.attack_samples,
    epochs: Epochs = _DEFAULT.epochs,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Table 2: the perspective relaxation (10), by the letter, and a preset beside it.

    The printed form, with γ = 0, has no zeros: it is pruned by size to the sparsity stated. The folder written holds
    table2.json, table2.md and run.json.

    Example: `simplicit reproduce table2 --data-dir data --output runs/table2`
    """
    settings = TableSettings(2, preset, anchor, seeds, pgd_steps, attack_samples, epochs)
    _reproduce(context, settings, data, data_dir, output, overwrite=overwrite, json=json)


@reproduce_app.command("table3")
def table3_command(
    context: typer.Context,
    data: Data = "fashion-mnist",
    data_dir: DataDir = None,
    preset: Preset = _TABLE_3.preset,
    anchor: Anchor = None,
    seeds: Seeds = _DEFAULT.seeds,
    pgd_steps: PgdSteps = _DEFAULT.pgd_steps,
    attack_samples: Attacked = _DEFAULT.attack_samples,
    epochs: Epochs = _DEFAULT.epochs,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Table 3: the ℓ1 norm (11), by the letter, and a preset beside it.

    The folder written holds table3.json, table3.md and run.json.

    Example: `simplicit reproduce table3 --data-dir data --output runs/table3`
    """
    settings = TableSettings(3, preset, anchor, seeds, pgd_steps, attack_samples, epochs)
    _reproduce(context, settings, data, data_dir, output, overwrite=overwrite, json=json)


def _reproduce(
    context: typer.Context,
    settings: TableSettings,
    data: str,
    data_dir: Path | None,
    output: Path | None,
    *,
    overwrite: bool,
    json: bool,
) -> None:
    reproduce_study(
        context,
        lambda dataset, progress: table_study(run_table(dataset, settings, progress=progress)),
        data=data,
        data_dir=data_dir,
        output=output or Path("runs") / f"table{settings.table}",
        overwrite=overwrite,
        json=json,
    )
