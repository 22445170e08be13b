"""``simplicit baseline``: train a plain network to start from."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from simplicit.cli.console import figures_table, percent, quoted, show_progress
from simplicit.cli.invocation import invocation
from simplicit.cli.shared import Named, Output
from simplicit.data import load_dataset
from simplicit.runs.baseline import Baseline, make_baseline, save_baseline
from simplicit.runs.folder import Manifest
from simplicit.runs.mlp import MlpSettings


def baseline(
    data: Named = Named(),
    settings: MlpSettings = MlpSettings(),
    output: Output = Output(Path("runs/baseline")),
) -> None:
    """Train a multilayer perceptron and save it as a folder.

    The folder holds config.json, weights.safetensors and run.json; `simplicit fit` starts from it. Training is Adam
    with a one-cycle learning rate, and repeats exactly by seed.

    Example: `simplicit baseline --data fashion-mnist --arch 64-32-16 --no-bias --output runs/fashion`
    """
    output.check("baseline")
    with show_progress() as steps:
        samples = load_dataset(data.data, data.data_dir)
        manifest = Manifest("baseline", command=invocation().command, inputs={"data": samples.describe()})
        trained = make_baseline(samples, settings, data_dir=data.data_dir, progress=steps)
    manifest.settings = settings.to_config() | trained.data_in(output.folder)
    manifest.seconds = {"training": trained.seconds}
    manifest.results = {"train_accuracy": trained.train_accuracy, "test_accuracy": trained.test_accuracy}
    save_baseline(trained, output.folder, manifest=manifest, overwrite=output.overwrite)
    done = f"\nSaved in {output.folder}. Next: simplicit fit {quoted(output.folder)} --sparsity 90"
    output.show(trained.to_config(output.folder), _table(trained), done)


def _table(trained: Baseline) -> Table:
    table = figures_table("Baseline", trained.describe())
    table.add_row("data", trained.data)
    table.add_row("train accuracy", f"{percent(trained.train_accuracy)} %")
    table.add_row("test accuracy", f"{percent(trained.test_accuracy)} %")
    table.add_row("training time", f"{trained.seconds:.1f} s")
    return table
