"""``simplicit reproduce frontier``: sparsity against accuracy, beside pruning methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simplicit.cli.options import DataDir, Json, Overwrite
from simplicit.cli.reproduce import reproduce_app, reproduce_study
from simplicit.runs.mlp import parse_arch
from simplicit.studies.frontier import FrontierSettings, frontier_study, run_frontier
from simplicit.studies.peers import PEERS
from simplicit.training import PRESETS

__all__ = ["frontier_command"]

_DEFAULT = FrontierSettings()
_MEASURED = "What is measured"


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
        peers=tuple(dict.fromkeys(peer)),
        preset=preset,
        eps=eps,
        pgd_steps=pgd_steps,
        attack_samples=attack_samples,
        epochs=epochs,
        workers=workers,
    )
    reproduce_study(
        context,
        lambda dataset, progress: frontier_study(run_frontier(dataset, settings, progress=progress)),
        data=data,
        data_dir=data_dir,
        output=output,
        overwrite=overwrite,
        json=json,
    )
