"""One fit as an experiment: open the task, fit, measure, write the folder."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.errors import DataError, InputError, SimplicitError
from simplicit.files import write_json
from simplicit.implicit import ImplicitModel, save
from simplicit.network import Capture, NetworkGraph, capture
from simplicit.progress import OnProgress, counted, listening, phase
from simplicit.rows import BasisPursuit, RowStatus
from simplicit.runs.cards import CARD, card_of
from simplicit.runs.doubts import doubts_of
from simplicit.runs.folder import MANIFEST, Manifest, read_manifest, run_folder
from simplicit.runs.hf.folder import PACKAGES, save_pretrained
from simplicit.runs.networks import NETWORK, WEIGHTS, CallRecord, classes_of
from simplicit.runs.settings import FitSettings
from simplicit.runs.task import Task, check_labels
from simplicit.runtime.files.checkpoints import write_state
from simplicit.runtime.files.folder import file_sizes
from simplicit.training import FitResult, Matching, Robust, fit
from simplicit.training.channels import ChannelStudent
from simplicit.training.doubts import DoubtfulInputsWarning

ROWS = "rows.json"
Labels = npt.NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitRun:
    """A finished fit, with what it was measured to be on the test part of the data.

    Attributes
    ----------
    settings : FitSettings
    result : FitResult
    test : mapping
        Figures for ``run.json``: of data ``accuracy``, ``baseline_accuracy`` and ``agreement``, shares in [0, 1]; of
        texts those of :func:`simplicit.runs.hf.fitting.figures_of`.
    inputs : dict
        What was read, with hashes.
    seconds : float
        Wall-clock time of the call of :func:`simplicit.fit`.
    tokenizer : object, optional
        What belongs beside a network of texts.
    remarks : tuple of str
        What a user should know of the data.
    """

    settings: FitSettings
    result: FitResult
    test: Mapping[str, Any]
    inputs: dict[str, Any]
    seconds: float
    tokenizer: Any = None
    remarks: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        """Whether the network is of a Hugging Face folder: it goes back to one, and its model is made when needed."""
        return self.settings.source.hf is not None

    @cached_property
    def file_sizes(self) -> dict[str, int]:
        """Bytes of the network with its new weights: ``dense``, that ``zipped``, and ``sparse`` in a folder.

        There are none where the network cannot take the weights.
        """
        try:
            with phase("sizes of files"):
                return file_sizes(self.result.network().state_dict())
        except InputError:
            return {}

    def results(self) -> dict[str, Any]:
        """The figures for ``run.json`` and ``--json``; shares are in [0, 1], sparsity is in per cent."""
        found = {**self.test, "wall_seconds": round(self.seconds, 3)} | self.result.figures()
        found["bytes"] = self.file_sizes
        call = CallRecord.of(self.result.graph).to_config() if self.pretrained else None
        if patterns := self.result.in_pattern():
            found["patterns"] = [asdict(one) for one in patterns]
        if self.remarks:
            found["remarks"] = list(self.remarks)
        return found | ({} if call is None else {"call": call})


def capture_task(task: Task) -> Capture:
    """The exact implicit form of the task's network.

    InputError is raised where the network does not take samples of the task's shape, or has fewer outputs than the data
    has classes, UnsupportedOperationError where it has an operation without implicit form.
    """
    samples = task.shaped(task.data.test_inputs[:2])
    try:
        with phase("capture"):
            captured = capture(task.net, samples)
    except SimplicitError as error:
        if (misfit := _misfit(task, samples)) is None:
            raise
        raise InputError(misfit) from error
    check_labels(task.data, captured.model.n_outputs, "network")
    return captured


def _misfit(task: Task, samples: Tensor) -> str | None:
    """What to tell where the network's first layer takes samples of another size; None where that is not the matter."""
    first = next((layer for layer in task.net.modules() if isinstance(layer, nn.Linear)), None)
    got: list[int] = []
    if first is None:
        return None
    hook = first.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0].shape[-1]))
    try:
        with torch.no_grad():
            task.net(samples)
    except Exception:  # the user's own forward may raise anything
        wanted = first.in_features
    else:
        return None
    finally:
        hook.remove()
    if not got or got[-1] == wanted:
        return None
    values = math.prod(task.input_shape)
    shape = ", ".join(map(str, ("m", *task.input_shape)))
    takes = f"takes {wanted}" if got[-1] == values else f"comes to {got[-1]} at a layer that takes {wanted}"
    return (
        f"samples of {task.data.name} have {values} values, shape ({shape}), the network {takes}: "
        "name the right --data or --input-shape"
    )


def run_fit(
    settings: FitSettings,
    task: Task,
    *,
    baseline: Capture | None = None,
    journal: Path | None = None,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> FitRun:
    """Fit the network of a task, opened from the same settings, and measure it on the test part; see ``simplicit.fit``.

    `baseline` is the network's exact implicit form, if it is at hand, whose graph is used up; `journal`, `cache` and
    `progress` are as in ``fit``. Data that :func:`~simplicit.runs.doubts.doubts_of` refuses is refused.
    """
    recipe = settings.recipe
    inputs, net = task.training_inputs(settings.samples, settings.seed), _at_hand(task, baseline, cache)
    remarks = doubts_of(task, inputs)
    if isinstance(recipe, Robust) and recipe.clip is None:
        recipe = replace(recipe, clip=task.data.input_range)
    if isinstance(recipe, Matching) and isinstance(recipe.penalty, BasisPursuit):
        inputs, net = inputs.double(), _in_float64(task.net)  # the rounding of float32 states cannot be matched exactly
    start = time.perf_counter()
    keeping: dict[str, Any] = {"journal": journal, "cache": cache, "progress": progress}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulInputsWarning)  # they are among the remarks
        result = fit(net, inputs, recipe, **vars(settings.running), **keeping)
    seconds = time.perf_counter() - start
    labels, model = task.data.test_labels, None if baseline is None else baseline.model
    with listening(progress):
        theirs, ours = counted(_classes(task, result, model), "measuring", 2)
    test = {
        "accuracy": float(np.mean(ours == labels)),
        "baseline_accuracy": float(np.mean(theirs == labels)),
        "agreement": float(np.mean(ours == theirs)),
    }
    return FitRun(settings, result, test, task.provenance, seconds, remarks=remarks)


def _at_hand(task: Task, baseline: Capture | None, cache: Path | None) -> nn.Module | NetworkGraph:
    """The graph of the task's network where there is one, and states are kept in memory; else the network."""
    return task.net if baseline is None or cache is not None else baseline.graph


def _classes(task: Task, result: FitResult, baseline: ImplicitModel | None) -> Iterator[Labels]:
    """The classes that the baseline and the retrained network give to the test samples.

    The networks give them where rows are tied, for an implicit model of thousands of tokens or pixels is slower.
    """
    if isinstance(result.student, ChannelStudent):
        inputs, output = task.shaped(task.data.test_inputs), result.graph.output_name
        yield from (classes_of(net, inputs, output) for net in (task.net, result.network()))
        return
    for model in (baseline or capture_task(task).model, result.model):
        yield model.predict(task.data.test_inputs).argmax(axis=1)


def _in_float64(net: nn.Module) -> nn.Module:
    """A copy of the network in float64; the weights are the same."""
    try:
        return copy.deepcopy(net).double()
    except Exception as error:  # the user's own classes may refuse in any way
        what = f"exact matching needs the network in float64, and it cannot be copied ({error}); take another one"
        raise refused("penalty", what) from error


def save_fit(run: FitRun, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
    """Write ``config.json`` and ``model.safetensors`` (:func:`simplicit.load` reads them), ``rows.json``, ``run.json``.

    Where the network can take the new weights, its state_dict is in ``weights.safetensors``. Of a network of a Hugging
    Face folder, ``network`` is one again and stands for all of these but rows and manifest.
    """
    with run_folder(folder, overwrite=overwrite, kind="fit", inputs=run.settings.source.paths) as draft:
        fill_fit_folder(run, draft, folder, command)


def fill_fit_folder(run: FitRun, draft: Path, folder: Path, command: Sequence[str] = ()) -> None:
    """Write the files of :func:`save_fit` into `draft`, which is going to be `folder`."""
    if run.pretrained:
        save_pretrained(run.result.network(), draft / NETWORK, run.tokenizer)
        card = card_of(run.results(), run.inputs, "transformers")
        (draft / NETWORK / CARD).write_text(card, encoding="utf-8")
    else:
        save(run.result.model, draft, overwrite=True)
        try:
            write_state(run.result.network().state_dict(), draft / WEIGHTS)
        except InputError as error:  # a structure of its own, or a network without parameters for it
            _log.warning("Note: no %s is written: %s", WEIGHTS, error)
    write_json(draft / ROWS, _row_table(run.result))
    Manifest(
        "fit",
        command=command,
        settings=run.settings.to_config(folder),
        inputs=run.inputs,
        seconds=dict(run.result.seconds) | {"fit": run.seconds},
        results=run.results(),
        packages=PACKAGES if run.pretrained else (),
    ).write(draft)


def _row_table(result: FitResult) -> dict[str, Any]:
    """Columns of equal length, one entry for each row, in the order of ``RowFigures``, and patterns where there are."""
    rows, patterns = result.rows, {layer.name: layer.pattern for layer in result.layers}
    columns = {item.name: getattr(rows, item.name) for item in fields(rows)}
    columns["status"] = [RowStatus(value).name.lower() for value in rows.status]
    if any(patterns.values()):
        columns["pattern"] = [patterns[str(name)] for name in rows.group]
    return columns


def weights_of(folder: Path) -> tuple[int, int]:
    """How many weights of a finished fit are not zero, and N₀; DataError where `folder` is not of a fit, or damaged."""
    results = read_manifest(folder, "fit").get("results")
    counts: list[int] = []
    for name in ("non_zeros", "baseline_weights"):
        count = results.get(name) if isinstance(results, dict) else None
        if type(count) is not int or count < 0:
            raise DataError(f"{folder / MANIFEST}: damaged, its results have no number of {name!r}")
        counts.append(count)
    return counts[0], counts[1]
