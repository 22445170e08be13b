"""One fit as an experiment: open the task, fit, measure, write the folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.baseline import Capture, capture
from simplicit.errors import InputError
from simplicit.experiments.run import Manifest, run_folder, write_json
from simplicit.experiments.settings import FitSettings
from simplicit.experiments.task import Task
from simplicit.implicit import ImplicitModel, save
from simplicit.robustness import accuracy
from simplicit.rows import L1, RowStatus
from simplicit.training import FitResult, RowFigures, fit

__all__ = ["ROWS", "FitRun", "capture_task", "fill_fit_folder", "run_fit", "save_fit"]

ROWS = "rows.json"


@dataclass(frozen=True)
class FitRun:
    """A finished fit.

    Parameters
    ----------
    settings : FitSettings
    result : FitResult
    accuracy, baseline_accuracy, agreement : float
        On the test part of the data, per cent.
    inputs : dict
        What was read, with hashes.
    seconds : float
        Wall-clock time of states and training together.
    """

    settings: FitSettings
    result: FitResult
    accuracy: float
    baseline_accuracy: float
    agreement: float
    inputs: dict[str, Any]
    seconds: float

    def results(self) -> dict[str, Any]:
        """The figures for ``run.json`` and ``--json``; accuracies, agreement and sparsity in per cent."""
        test = {
            "accuracy": self.accuracy,
            "baseline_accuracy": self.baseline_accuracy,
            "agreement": self.agreement,
            "wall_seconds": round(self.seconds, 3),
        }
        return test | self.result.figures()


def capture_task(task: Task) -> Capture:
    """The exact implicit form of the task's network.

    Raises
    ------
    InputError
        The network does not take samples of the task's shape, or has fewer outputs than the data has classes.
    UnsupportedOperationError
        The network has an operation without implicit form.
    """
    captured = capture(task.net, task.shaped(task.data.test_inputs[:2]))
    outputs = captured.model.n_outputs
    if outputs < task.data.classes:
        raise InputError(
            f"the labels of {task.data.name} do not fit: they go up to {task.data.classes - 1}, the network has "
            f"{outputs} outputs; give the data that it was trained on with --data"
        )
    return captured


def run_fit(
    settings: FitSettings,
    task: Task,
    *,
    baseline: ImplicitModel | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> FitRun:
    """Fit and measure on the test part.

    Parameters
    ----------
    settings : FitSettings
    task : Task
        Opened from the same settings.
    baseline : ImplicitModel, optional
        The network's exact implicit form, if it is at hand.
    progress : callable, optional
        Called with a stage, the steps done, and the steps in all.

    Raises
    ------
    SimplicitError
        As :func:`simplicit.fit`.
    """
    baseline = baseline or capture_task(task).model
    inputs = task.training_inputs(settings.samples, settings.seed)
    start = time.perf_counter()
    result = fit(
        task.net,
        inputs,
        penalty=L1(beta=settings.beta),
        lambda1=settings.lambda1,
        lambda2=settings.lambda2,
        kappa=settings.kappa,
        structure=settings.structure,
        normalize=settings.normalize,
        sparsity=settings.sparsity,
        regenerate=settings.regenerate,
        tol=settings.tol,
        executor=settings.executor,
        workers=settings.workers,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    test, labels = task.data.test_inputs, task.data.test_labels
    ours, theirs = result.model.predict(test).argmax(axis=1), baseline.predict(test).argmax(axis=1)
    return FitRun(
        settings=settings,
        result=result,
        accuracy=100.0 * accuracy(result.model, test, labels),
        baseline_accuracy=100.0 * accuracy(baseline, test, labels),
        agreement=100.0 * float(np.mean(ours == theirs)),
        inputs=task.inputs,
        seconds=seconds,
    )


def save_fit(run: FitRun, folder: Path, *, command: list[str] | None = None, overwrite: bool = False) -> None:
    """Write ``config.json`` and ``model.safetensors`` (:func:`simplicit.load` reads them), ``rows.json``, ``run.json``.

    Raises
    ------
    InputError
        `folder` exists and may not be replaced.
    """
    with run_folder(folder, overwrite=overwrite) as draft:
        fill_fit_folder(run, draft, folder, command)


def fill_fit_folder(run: FitRun, draft: Path, folder: Path, command: list[str] | None = None) -> None:
    """Write the files of :func:`save_fit` into `draft`, which is going to be `folder`."""
    save(run.result.model, draft, overwrite=True)
    write_json(draft / ROWS, _row_table(run.result.rows))
    Manifest(
        "fit",
        command=command or [],
        settings=run.settings.to_config(folder),
        inputs=run.inputs,
        seconds=dict(run.result.seconds) | {"states and training": run.seconds},
        results=run.results(),
    ).write(draft)


def _row_table(rows: RowFigures) -> dict[str, Any]:
    """Columns of equal length, one entry per row of M, states first."""
    return {
        "group": rows.group,
        "objective": rows.objective,
        "dual_gap": rows.dual_gap,
        "relative_gap": rows.relative_gap,
        "status": [RowStatus(value).name.lower() for value in rows.status],
        "nnz": rows.nnz,
        "multiplier": rows.multiplier,
        "seconds": rows.seconds,
    }
