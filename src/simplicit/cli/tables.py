"""``simplicit reproduce table2 | table3``: the paper's tables, by the letter and by a preset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, say, show_progress
from simplicit.cli.options import DataDir, Json, Overwrite
from simplicit.cli.reproduce import reproduce_app
from simplicit.data import load_dataset
from simplicit.files import write_json
from simplicit.runs.folder import Manifest, check_output, run_folder
from simplicit.studies.tables import RADII, Table, TableSettings, run_table
from simplicit.training import PRESETS

__all__ = ["markdown", "table2_command", "table3_command"]

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
    name = f"table{settings.table}"
    folder = Path("runs") / name if output is None else output
    check_output(folder, overwrite=overwrite, kind="reproduce")
    dataset = load_dataset(data, data_dir)
    with show_progress("elapsed", lines=True) as on_step:
        found = run_table(dataset, settings, on_step=on_step)
    with run_folder(folder, overwrite=overwrite, kind="reproduce") as draft:
        write_json(draft / f"{name}.json", found.figures())
        (draft / f"{name}.md").write_text(markdown(found), encoding="utf-8")
        Manifest(
            "reproduce",
            command=command_line(context),
            settings={"figure": name, "data": data} | asdict(settings),
            inputs={"data": dataset.describe()},
            seconds={"all": found.seconds},
            results=found.figures(),
        ).write(draft)
    if json:
        print_json({"folder": folder} | found.figures())
        return
    say(_table(found), *_notes(found), f"Saved in {folder}.")


def _cells(found: Table) -> list[list[str]]:
    """A line per row: samples; sparsity and attacked accuracy of the paper, by the letter, and ours; the gain."""
    lines = []
    for row in found.rows:
        cells = [f"{row.paper.samples:,}", f"{row.paper.sparsity:g}", _pair(row.paper.accuracy)]
        for one in (row.letter, row.preset):
            cells += [f"{one.sparsity:.1f}", _pair(one.fgsm), _pair(one.pgd)]
        lines.append([*cells, " / ".join(f"{gain:+.1f}" for gain in row.gain)])
    return lines


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f} / {values[1]:.1f}"


def _columns() -> list[str]:
    radii = " / ".join(f"{eps:g}" for eps in RADII)
    sections = [["paper: sparsity", f"at {radii}"]]
    sections += [[f"{name}: sparsity", "FGSM", "PGD"] for name in ("by the letter", "ours")]
    return ["samples", *(column for section in sections for column in section), "gain on the paper"]


def _table(found: Table) -> Any:
    table = figures_table(*_columns(), title=f"Table {found.settings.table}: accuracy under attack, %")
    for cells in _cells(found):
        table.add_row(*cells)
    return table


def _notes(found: Table) -> list[str]:
    settings, one = found.settings, found.baseline
    certified = min(row.letter.certified for row in found.rows)
    share = "all rows" if certified == 100 else f"at least {certified:.1f} % of the rows"
    anchor = "" if settings.anchor is None else f", anchor {settings.anchor:g}"
    notes = [
        f"Baseline: {one.clean:.1f} clean, FGSM {_pair(one.fgsm)}, PGD {_pair(one.pgd)}.",
        f"Ours: preset {settings.preset}{anchor}. PGD with {settings.pgd_steps} steps; "
        f"{settings.attack_samples:,} test samples attacked; "
        f"{'one seed' if settings.seeds == 1 else f'means over {settings.seeds} seeds'}.",
        f"By the letter, {share} of every model are certified.",
    ]
    if settings.table == 2:
        notes.append("(10) as printed has γ = 0: ridge, without zeros. By the letter it is pruned by size as stated.")
    return notes


def markdown(found: Table) -> str:
    """The table in Markdown."""
    columns = _columns()
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(found)]
    title = f"# Table {found.settings.table} of the paper, again: accuracy under attack, %"
    return "\n".join([title, "", *lines, "", *_notes(found), ""])
