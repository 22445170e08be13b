"""``simplicit baseline``: train a plain network to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from simplicit.cli.console import command_line, figures_table, print_json, say, show_progress
from simplicit.cli.options import DataDir, Json, Overwrite
from simplicit.data import load_dataset
from simplicit.runs.baseline import Baseline, make_baseline, save_baseline
from simplicit.runs.folder import Manifest, check_output
from simplicit.runs.mlp import ACTIVATIONS, MlpSettings, parse_arch

__all__ = ["baseline_command"]

_NETWORK = "Network"
_TRAINING = "Training"
_DEFAULT = MlpSettings()


def baseline_command(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="digits, fashion-mnist, or a folder or .npz file with your own arrays.", rich_help_panel="Data"
        ),
    ] = "digits",
    data_dir: DataDir = None,
    arch: Annotated[
        str, typer.Option(metavar="WIDTHS", help="Hidden layers, first to last.", rich_help_panel=_NETWORK)
    ] = "-".join(map(str, _DEFAULT.arch)),
    bias: Annotated[
        bool, typer.Option("--bias/--no-bias", help="Biases in the linear layers.", rich_help_panel=_NETWORK)
    ] = _DEFAULT.bias,
    activation: Annotated[
        str, typer.Option(help=f"One of {', '.join(ACTIVATIONS)}.", rich_help_panel=_NETWORK)
    ] = _DEFAULT.activation,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", rich_help_panel=_TRAINING)] = _DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Samples per step.", rich_help_panel=_TRAINING)] = _DEFAULT.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Peak of the one-cycle schedule.", rich_help_panel=_TRAINING)
    ] = _DEFAULT.learning_rate,
    weight_decay: Annotated[
        float, typer.Option(help="Decoupled weight decay.", rich_help_panel=_TRAINING)
    ] = _DEFAULT.weight_decay,
    seed: Annotated[
        int, typer.Option(help="Of initial weights and batches.", rich_help_panel=_TRAINING)
    ] = _DEFAULT.seed,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/baseline"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a multilayer perceptron and save it as a folder.

    The folder holds config.json, weights.safetensors and run.json; `simplicit fit` starts from it. Training is Adam
    with a one-cycle learning rate, and repeats exactly by seed.

    Example: `simplicit baseline --data fashion-mnist --arch 64-32-16 --no-bias --output runs/fashion`
    """
    settings = MlpSettings(parse_arch(arch), bias, activation, epochs, batch_size, learning_rate, weight_decay, seed)
    check_output(output, overwrite=overwrite, kind="baseline")
    samples = load_dataset(data, data_dir)
    manifest = Manifest("baseline", command=command_line(context), inputs={"data": samples.describe()})
    with show_progress() as steps:
        trained = make_baseline(samples, settings, data_dir=data_dir, progress=steps)
    manifest.settings = settings.to_config() | trained.data_in(output)
    manifest.seconds = {"training": trained.seconds}
    manifest.results = {"train_accuracy": trained.train_accuracy, "test_accuracy": trained.test_accuracy}
    save_baseline(trained, output, manifest=manifest, overwrite=overwrite)
    if json:
        print_json({"folder": output} | trained.to_config(output))
    else:
        say(_table(trained), f"\nSaved in {output}. Next: simplicit fit {output} --sparsity 65")


def _table(trained: Baseline) -> Table:
    table = figures_table("Baseline", trained.describe())
    table.add_row("data", trained.data)
    table.add_row("train accuracy", f"{100 * trained.train_accuracy:.2f} %")
    table.add_row("test accuracy", f"{100 * trained.test_accuracy:.2f} %")
    table.add_row("training time", f"{trained.seconds:.1f} s")
    return table
