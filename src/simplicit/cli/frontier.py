"""``simplicit reproduce frontier``: sparsity against accuracy, beside pruning methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import can_draw, command_line, figures_table, print_json, saved, say, show_progress
from simplicit.cli.options import DataDir, Json, Overwrite
from simplicit.cli.reproduce import reproduce_app
from simplicit.data import load_dataset
from simplicit.files import write_json
from simplicit.report import Line, Panel, draw_tradeoff
from simplicit.runs.folder import Manifest, check_output, run_folder
from simplicit.runs.mlp import parse_arch
from simplicit.studies.frontier import BASELINE, OURS, Frontier, FrontierSettings, Method, run_frontier
from simplicit.studies.peers import PEERS
from simplicit.training import PRESETS

__all__ = ["frontier_command", "markdown"]

_DEFAULT = FrontierSettings()
_MEASURED = "What is measured"
_FIGURES, _TABLE, _PICTURE = "frontier.json", "frontier.md", "frontier.png"
_KINDS = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD"}


@reproduce_app.command("frontier")
def frontier_command(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="digits, fashion-mnist, or a folder or .npz file with your own arrays.")
    ] = "fashion-mnist",
    data_dir: DataDir = None,
    arch: Annotated[
        str, typer.Option(metavar="WIDTHS", help="Hidden layers of the network.", rich_help_panel=_MEASURED)
    ] = "64-32-16",
    sparsity: Annotated[
        list[float],
        typer.Option(
            metavar="PERCENT",
            help=f"Repeat for several. Default: {', '.join(f'{value:g}' for value in _DEFAULT.sparsities)}.",
            rich_help_panel=_MEASURED,
            show_default=False,
        ),
    ] = [],  # noqa: B006 - Typer takes lists
    peer: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help=f"Repeat for several of {', '.join(PEERS)}. Default: all.",
            rich_help_panel=_MEASURED,
            show_default=False,
        ),
    ] = [],  # noqa: B006
    preset: Annotated[
        str, typer.Option(metavar="|".join(PRESETS), help="Ours.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.preset,
    samples: Annotated[
        int, typer.Option(help="Calibration samples, the same for all methods.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.samples,
    seeds: Annotated[
        int, typer.Option(help="Repetitions, each with its own baseline and samples.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.seeds,
    first_seed: Annotated[
        int, typer.Option(help="Of the repetitions: report on others than you tuned on.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.first_seed,
    eps: Annotated[str, typer.Option(help="Radius of the attacks.", rich_help_panel=_MEASURED)] = _DEFAULT.eps,
    pgd_steps: Annotated[int, typer.Option(help="Of PGD.", rich_help_panel=_MEASURED)] = _DEFAULT.pgd_steps,
    attack_samples: Annotated[
        int, typer.Option(help="Test samples under attack, drawn at random.", rich_help_panel=_MEASURED)
    ] = _DEFAULT.attack_samples,
    epochs: Annotated[int, typer.Option(help="Of the baseline.", rich_help_panel=_MEASURED)] = _DEFAULT.epochs,
    workers: Annotated[
        int, typer.Option(help="Seeds at a time, one thread each.", rich_help_panel="Running")
    ] = _DEFAULT.workers,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/frontier"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Sparsity against accuracy, clean and attacked, of this method and of others on the same samples.

    Every peer is given an equal share of every layer and, apart, the numbers of weights that ours gives to the layers;
    peers that fit weights match their own targets and, apart, the baseline's states. The folder written holds
    frontier.json, frontier.md, run.json and, with the extra `report` installed, frontier.png.

    Example: `simplicit reproduce frontier --data-dir data --output runs/frontier`
    """
    settings = FrontierSettings(
        arch=parse_arch(arch),
        sparsities=tuple(sorted(set(sparsity))) or _DEFAULT.sparsities,
        samples=samples,
        seeds=seeds,
        first_seed=first_seed,
        peers=tuple(dict.fromkeys(peer)) or _DEFAULT.peers,
        preset=preset,
        eps=eps,
        pgd_steps=pgd_steps,
        attack_samples=attack_samples,
        epochs=epochs,
        workers=workers,
    )
    check_output(output, overwrite=overwrite, kind="reproduce")
    dataset = load_dataset(data, data_dir)
    with show_progress("elapsed", lines=True) as on_step:
        found = run_frontier(dataset, settings, on_step=on_step)
    with run_folder(output, overwrite=overwrite, kind="reproduce") as draft:
        write_json(draft / _FIGURES, found.figures())
        (draft / _TABLE).write_text(markdown(found), encoding="utf-8")
        if can_draw():
            _draw(found, draft / _PICTURE)
        Manifest(
            "reproduce",
            command=command_line(context),
            settings={"figure": "frontier", "data": data} | asdict(settings),
            inputs={"data": dataset.describe()},
            seconds={"all": found.seconds},
            results={"means": found.figures()["means"]},
        ).write(draft)
    if json:
        print_json({"folder": output} | found.figures())
        return
    say(*(_table(found, kind) for kind in _KINDS), saved(output, _PICTURE))


def _cell(found: Frontier, method: Method, sparsity: float, kind: str) -> str:
    summary = found.summary(method, sparsity)
    spread = f" ± {summary[f'{kind}_std']:.1f}" if found.settings.seeds > 1 else ""
    return f"{summary[kind]:.1f}{spread}"


def _seeds(settings: FrontierSettings) -> str:
    first, last = settings.first_seed, settings.first_seed + settings.seeds - 1
    return f"seed {first}" if first == last else f"{settings.seeds} seeds, {first} to {last}"


def _table(found: Frontier, kind: str) -> Any:
    settings, baseline = found.settings, Method(BASELINE)
    under = "" if kind == "clean" else f", ε = {settings.eps}"
    title = (
        f"Accuracy, %, {_KINDS[kind]}{under}; baseline {_cell(found, baseline, 0.0, kind)}; "
        f"{_seeds(settings)}, mean and standard deviation"
    )
    table = figures_table("sparsity, %", *(f"{value:g}" for value in settings.sparsities), title=title)
    for method in found.methods:
        if method != baseline:
            table.add_row(str(method), *(_cell(found, method, value, kind) for value in settings.sparsities))
    return table


def markdown(found: Frontier) -> str:
    """The study as tables in Markdown, one for each kind of accuracy."""
    settings, baseline = found.settings, Method(BASELINE)
    parts = [
        f"# Sparsity against accuracy\n\n{settings.samples:,} calibration samples, {_seeds(settings)} (each a "
        f"baseline and samples of its own): mean ± standard deviation, per cent. Attacks: ε = {settings.eps}, "
        f"PGD with {settings.pgd_steps} steps, {settings.attack_samples:,} test samples. The study took "
        f"{found.seconds / 60:.0f} minutes with {settings.workers} workers, "
        f"{found.processor_seconds / 60:.0f} minutes of processor time.\n"
    ]
    for kind, title in _KINDS.items():
        head = ["method", *(f"{value:g} %" for value in settings.sparsities)]
        lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(settings.sparsities)]
        for method in found.methods:
            if method == baseline:
                continue
            cells = [_cell(found, method, value, kind) for value in settings.sparsities]
            name = f"**{method}**" if method.solver == OURS else str(method)
            lines.append("| " + " | ".join([name, *cells]) + " |")
        parts.append(f"## {title}\n\nBaseline: {_cell(found, baseline, 0.0, kind)}.\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _draw(found: Frontier, path: Path) -> None:
    """The variants that do best, so that the picture can be read: every solver with an equal share and with ours."""
    shown = [method for method in found.methods if method.solver != BASELINE and method.targets != "own"]
    panels = []
    for kind in ("clean", "pgd"):
        lines = []
        for method in shown:
            summaries = [found.summary(method, value) for value in found.settings.sparsities]
            lines.append(
                Line(
                    str(method).removesuffix(", our targets"),
                    method.solver,
                    [summary[kind] for summary in summaries],
                    [summary[f"{kind}_std"] for summary in summaries],
                    dashed=method.allocation in ("uniform", "global"),
                )
            )
        title = "Clean" if kind == "clean" else f"PGD-{found.settings.pgd_steps}, ε = {found.settings.eps}"
        panels.append(Panel(title, found.summary(Method(BASELINE), 0.0)[kind], lines))
    draw_tradeoff(path, found.settings.sparsities, (panels[0], panels[1]))
