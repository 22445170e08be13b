"""``simplicit fit``: from a trained network to a sparse, well-posed implicit model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from simplicit.cli.console import figures_table, percent, quoted, show_progress
from simplicit.cli.invocation import invocation
from simplicit.cli.shared import Keeping, Output
from simplicit.progress import phase
from simplicit.runs.fitting import FitRun, capture_task, run_fit, save_fit
from simplicit.runs.hf.figures import lines_of
from simplicit.runs.hf.fitting import run_text_fit
from simplicit.runs.hf.task import TextTask, open_source
from simplicit.runs.settings import FitSettings, recorded_inputs
from simplicit.runs.task import check_unchanged

#: Settings that name the network and its data.
_SOURCE = {"baseline", "model", "weights", "data", "data_dir", "hf", "texts", "test_texts", "labels", "length"}
_OUTPUT = Output(Path("runs/fit"))


def fit(
    settings: FitSettings,
    keeping: Keeping = Keeping(),
    output: Output = _OUTPUT,
    *,
    config: Path | None = None,
    cache: Annotated[Path | None, "Running"] = None,
    trust_pt2: Annotated[bool, "Network and data"] = False,
) -> None:
    """Retrain a network as a sparse, well-posed implicit model, by convex optimisation on its own states.

    The network comes from BASELINE, a folder of `simplicit baseline`, from --model and --weights, or from --hf, a
    folder of Hugging Face's transformers, whose inputs are --texts, or --data. Every row is solved to a proven duality
    gap. The folder written holds config.json and model.safetensors (read them with simplicit.load),
    weights.safetensors (the state_dict of the network with its new weights), rows.json with the certificate of every
    row, and run.json, which repeats the run. After --hf, in place of the first three, it holds the folder network,
    which from_pretrained of the network's class reads, with its tokenizer.

    Example: `simplicit fit runs/baseline --sparsity 90 --output runs/fit`, or
    `simplicit fit --hf FOLDER --texts texts.txt --sparsity 50 --output runs/fit`

    Parameters
    ----------
    settings, keeping, output
    config : Path, optional
        Repeat the run of a run.json, or read settings from a .toml file; options given here win.
    cache : Path, optional
        A folder for states that would take more than a GiB of memory, emptied at the end: memory then does not grow
        with --samples.
    trust_pt2 : bool
        Allow a .pt2 program in --weights. Loading one can run code that it carries: only from people you trust.
    """
    output.check("fit", [*settings.source.paths, *(folder for folder in (keeping.journal, cache) if folder)])
    with show_progress() as steps:
        task = open_source(settings.source, trust_pt2=trust_pt2)
        if config is not None and not _SOURCE & invocation().given.keys():
            check_unchanged(recorded_inputs(config), task.provenance, config)
        # The implicit model of a network of a Hugging Face folder is made when a command needs it.
        baseline = None if settings.source.hf is not None or isinstance(task, TextTask) else capture_task(task)
        if isinstance(task, TextTask):
            run = run_text_fit(settings, task, journal=keeping.journal, cache=cache, progress=steps)
        else:
            run = run_fit(settings, task, baseline=baseline, journal=keeping.journal, cache=cache, progress=steps)
        with phase(f"writing {output.folder}"):
            save_fit(run, output.folder, **output.saving())
    done = f"\nSaved in {output.folder}. Next: simplicit eval {quoted(output.folder)}"
    output.show(run.results(), run.result.summary(), *_sizes(run), "", _table(run), *_remarks(run), done)


def _table(run: FitRun) -> Any:
    if "measures" in run.test:
        return texts_table(run.test)
    table = figures_table("On the test samples", "baseline", "retrained")
    accuracies = (f"{percent(run.test[name])} %" for name in ("baseline_accuracy", "accuracy"))
    table.add_row("accuracy", *accuracies)
    table.add_row("agreement with the baseline", "", f"{percent(run.test['agreement'])} %")
    return table


def texts_table(figures: Mapping[str, Any], about: str = "On the test texts") -> Any:
    """What a network is on texts, beside the dense one."""
    counts = f"{figures['texts']:,} texts, {figures['tokens']:,} tokens; {figures['head']}"
    table = figures_table(f"{about}: {counts}", "baseline", "retrained")
    for line in lines_of(figures["measures"]):
        table.add_row(*line)
    return table


def _sizes(run: FitRun) -> list[str]:
    if not run.file_sizes:
        return []
    dense, zipped, sparse = (f"{run.file_sizes[name]:,}" for name in ("dense", "zipped", "sparse"))
    return [f"  files      {dense} bytes dense, {zipped} zipped, {sparse} as `simplicit export RUN --output FOLDER`"]


def _remarks(run: FitRun) -> list[str]:
    return ["", *(f"Note: {remark}." for remark in run.remarks)] if run.remarks else []
