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
from simplicit.files import file_hash, read_json
from simplicit.implicit import ImplicitModel, load
from simplicit.runs.fitting import capture_task, weights_of
from simplicit.runs.folder import MANIFEST
from simplicit.runs.settings import Source, read_config, read_source
from simplicit.runs.task import Task, check_range, check_unchanged, open_task

#: What the baseline is called among the subjects.
BASELINE = "baseline"

_MODEL_FILES = ("config.json", "model.safetensors")


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

    Parameters
    ----------
    runs : sequence of Path
    baseline, data, data_dir : optional
        In place of those that the fits started from.
    trust_pt2 : bool
        Allow a ``.pt2`` program as the baseline, whose loading can run code.

    Raises
    ------
    InputError
        No runs, one of them twice, runs of different baselines or data, or data that does not fit.
    DataError
        A folder or file is missing, damaged, or changed since the fit.
    """
    if not runs:
        raise InputError("name at least one folder that `simplicit fit` wrote")
    twice = next((run for place, run in enumerate(runs) if run in runs[:place]), None)
    if twice is not None:
        raise InputError(f"{twice}: named twice")
    opened = [_open(run, baseline, data, data_dir, trust_pt2) for run in runs]
    task = opened[0][1]
    for run, other, _ in opened[1:]:
        _check_same(runs[0], task, run, other)
    captured = capture_task(task)
    models = {run: load(run) for run, _, fitted in opened if fitted}
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
    hashes = {str(run): {name: file_hash(run / name) for name in _MODEL_FILES} for run in models}
    return Subjects(tuple(members), task.data, task.inputs | {"models": hashes}, tuple(runs))


def _open(
    run: Path, baseline: Path | None, data: str | None, data_dir: Path | None, trust_pt2: bool
) -> tuple[Path, Task, bool]:
    """A run, what it was made on, and whether it is a fit."""
    if (run / MANIFEST).is_file() and read_json(run / MANIFEST).get("kind") == BASELINE:
        alone = Source(baseline=baseline or run, data=data, data_dir=data_dir)
        return run, open_task(alone, trust_pt2=trust_pt2), False
    task = open_task(read_source(run, baseline=baseline, data=data, data_dir=data_dir), trust_pt2=trust_pt2)
    recorded = read_config(run)[1]
    if baseline is None and data is None:
        check_unchanged(recorded, task.inputs, run / MANIFEST)
    check_range(recorded, task.data, run)
    return run, task, True


def _check_same(first: Path, task: Task, run: Path, other: Task) -> None:
    for what in ("network", "data"):
        ours, theirs = task.inputs[what], other.inputs[what]
        ours, theirs = (ours["state_dict"], theirs["state_dict"]) if what == "network" else (ours, theirs)
        if ours != theirs:
            raise InputError(
                f"{run}: of another {'baseline' if what == 'network' else 'data set'} than {first}; name runs that "
                "share it, or name it by --baseline and --data"
            )


def choose_samples(data: Dataset, count: int | None, seed: int) -> Samples:
    """``count`` test samples, drawn at random by ``seed``, in their own order; all of them if None.

    Raises
    ------
    InputError
        Fewer than one, or more than there are.
    """
    available = len(data.test_labels)
    if count is not None and not 1 <= count <= available:
        raise InputError(
            f"samples must be between 1 and the {available} test samples of {data.name}, got {count}",
            argument="samples",
        )
    places = np.arange(available)
    if count is not None:
        places = np.sort(np.random.default_rng(seed).choice(available, count, replace=False))
    return Samples(places, data.test_inputs[places], data.test_labels[places])
