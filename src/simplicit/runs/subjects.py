"""Finished runs and the baseline that they came from, opened together to be attacked or certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.runs.fitting import capture_task, weights_of
from simplicit.runs.folder import check_folders, kind_of
from simplicit.runs.networks import model_hashes, open_model
from simplicit.runs.settings import Source
from simplicit.runs.task import Task, draw, open_finished, open_task

#: What the baseline is called among the subjects.
BASELINE = "baseline"


@dataclass(frozen=True)
class Subject:
    """A model under test: its name (the folder as it was typed, or ``baseline``) and its sparsity in per cent."""

    name: str
    model: ImplicitModel
    sparsity: float


@dataclass(frozen=True)
class Subjects:
    """The baseline first, then the runs, with the data that all were made on.

    ``inputs`` is what was read, with hashes, for a manifest; ``folders`` are the folders that it came from.
    """

    members: tuple[Subject, ...]
    data: Dataset
    inputs: dict[str, Any]
    folders: tuple[Path, ...]

    @property
    def baseline(self) -> Subject:
        return self.members[0]


@dataclass(frozen=True)
class Samples:
    """Test samples: ``places`` among all of them, inputs (m, p) and labels (m,)."""

    places: npt.NDArray[np.int64]
    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def open_subjects(
    runs: Sequence[Path],
    *,
    baseline: Path | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    trust_pt2: bool = False,
) -> Subjects:
    """Open folders of ``simplicit fit``, or of ``simplicit baseline``, which then stands alone.

    `baseline`, `data` and `data_dir` stand in for those that the fits started from; `trust_pt2` allows a ``.pt2``
    program as the baseline, whose loading can run code. InputError is raised for no runs, one of them twice, runs of
    different baselines or data, and data that does not fit, DataError for what is missing, damaged, or changed.
    """
    check_folders(runs, "fit")
    others: dict[str, Any] = {"data": data, "data_dir": data_dir}
    fits, tasks = [run for run in runs if kind_of(run) != BASELINE], dict[Path, Task]()
    for run in runs:
        if run in fits:
            tasks[run] = open_finished(run, baseline=baseline, trust_pt2=trust_pt2, **others)
        else:
            tasks[run] = open_task(Source(baseline=baseline or run, **others), trust_pt2=trust_pt2)
        _check_same(runs[0], tasks[runs[0]], run, tasks[run])
    task = tasks[runs[0]]
    captured, models = capture_task(task), {run: open_model(run) for run in fits}
    for run, model in models.items():
        if model.n_inputs != task.data.n_inputs or model.n_outputs < task.data.classes:
            raise InputError(
                f"{run}: has {model.n_inputs} inputs and {model.n_outputs} outputs, a sample of {task.data.name} has "
                f"{task.data.n_inputs} values, of {task.data.classes} classes; name the --data that it was trained on"
            )
    members = [Subject(BASELINE, captured.model, 0.0)]
    for run, model in models.items():
        nnz, total = weights_of(run)
        members.append(Subject(str(run), model, 100.0 * (1.0 - nnz / total)))
    hashes = {str(run): model_hashes(run) for run in models}
    return Subjects(tuple(members), task.data, task.provenance | {"models": hashes}, tuple(runs))


def _check_same(first: Path, task: Task, run: Path, other: Task) -> None:
    for what in ("network", "data"):
        ours, theirs = task.provenance[what], other.provenance[what]
        ours, theirs = (ours["state_dict"], theirs["state_dict"]) if what == "network" else (ours, theirs)
        if ours != theirs:
            raise InputError(
                f"{run}: of another {'baseline' if what == 'network' else 'data set'} than {first}; name runs that "
                "share it, or name it by --baseline and --data"
            )


def choose_samples(data: Dataset, count: int | None, seed: int) -> Samples:
    """``count`` test samples, drawn at random by ``seed``, in their own order; all of them if None."""
    total = len(data.test_labels)
    all_of_them = f"the {total} test samples of {data.name}"
    places = np.arange(total) if count is None else draw(count, total, seed, all_of_them)
    return Samples(places, data.test_inputs[places], data.test_labels[places])
