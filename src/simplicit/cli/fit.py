"""``simplicit fit``: from a trained network to a sparse, well-posed implicit model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from simplicit.cli.console import figures_table, invocation, percent, show_progress
from simplicit.cli.shared import Keeping, Output
from simplicit.runs.fitting import FitRun, capture_task, run_fit, save_fit
from simplicit.runs.settings import FitSettings, recorded_inputs
from simplicit.runs.task import check_unchanged, open_task

#: Settings that name the network and its data.
_SOURCE = {"baseline", "model", "weights", "data", "data_dir"}
_OUTPUT = Output(Path("runs/fit"))


def fit(
    settings: FitSettings,
    keeping: Keeping = Keeping(),
    output: Output = _OUTPUT,
    *,
    config: Path | None = None,
    trust_pt2: Annotated[bool, "Network and data"] = False,
) -> None:
    """Retrain a network as a sparse, well-posed implicit model, by convex optimisation on its own states.

    The network comes from BASELINE, a folder of `simplicit baseline`, or from --model and --weights. Every row is
    solved to a proven duality gap. The folder written holds config.json and model.safetensors (read them with
    simplicit.load), weights.safetensors (the state_dict of the network with its new weights), rows.json with the
    certificate of every row, and run.json, which repeats the run.

    Example: `simplicit fit runs/baseline --sparsity 90 --output runs/fit`

    Parameters
    ----------
    settings, keeping, output
    config : Path, optional
        Repeat the run of a run.json, or read settings from a .toml file; options given here win.
    trust_pt2 : bool
        Allow a .pt2 program in --weights. Loading one can run code that it carries: only from people you trust.
    """
    output.check("fit", [*settings.source.paths, *([keeping.journal] if keeping.journal else [])])
    task = open_task(settings.source, trust_pt2=trust_pt2)
    if config is not None and not _SOURCE & invocation().given.keys():
        check_unchanged(recorded_inputs(config), task.provenance, config)
    captured = capture_task(task)
    with show_progress() as steps:
        run = run_fit(settings, task, baseline=captured.model, journal=keeping.journal, progress=steps)
    save_fit(run, output.folder, **output.saving())
    done = f"\nSaved in {output.folder}. Next: simplicit eval {output.folder}"
    output.show(run.results(), run.result.summary(), "", _table(run), done)


def _table(run: FitRun) -> Any:
    table = figures_table("On the test samples", "baseline", "retrained")
    table.add_row("accuracy", f"{percent(run.baseline_accuracy)} %", f"{percent(run.accuracy)} %")
    table.add_row("agreement with the baseline", "", f"{percent(run.agreement)} %")
    return table
