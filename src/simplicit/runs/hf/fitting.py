"""A fit on texts, and what is measured of it: the dense network beside the one that was made of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from simplicit.checks import refused
from simplicit.errors import DataError
from simplicit.files import write_json
from simplicit.progress import OnProgress, listening
from simplicit.runs.fitting import FitRun, weights_of
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.hf.folder import CONFIG, PACKAGES, load_pretrained, load_tokenizer
from simplicit.runs.hf.heads import Both
from simplicit.runs.hf.task import TextTask, reopened_texts
from simplicit.runs.networks import NETWORK, evaluated
from simplicit.runs.settings import FitSettings
from simplicit.runs.task import state_hash
from simplicit.training import Robust, fit


def run_text_fit(
    settings: FitSettings,
    task: TextTask,
    *,
    journal: Path | None = None,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> FitRun:
    """Fit the network of a task, opened from the same settings, and measure it on the texts that were held out.

    InputError is raised for a recipe that attacks its inputs.
    """
    if isinstance(settings.recipe, Robust):
        what = "is trained on attacked inputs, and token ids are whole numbers, which are not attacked; take sparse"
        raise refused("recipe", what, type(settings.recipe).__name__.lower())
    inputs = task.training_inputs(settings.samples, settings.seed)
    begun = time.perf_counter()
    keeping: dict[str, Any] = {"journal": journal, "cache": cache, "progress": progress}
    result = fit(task.net, inputs, settings.recipe, **vars(settings.running), **keeping)
    seconds = time.perf_counter() - begun
    with listening(progress):
        test = figures_of(task, result.network(), settings.seed)
    assert settings.source.hf is not None
    as_it_came = load_tokenizer(settings.source.hf)  # a call changes what a tokenizer cuts off and fills up
    return FitRun(settings, result, test, task.provenance, seconds, as_it_came, tuple(task.remarks))


def figures_of(task: TextTask, sparse: nn.Module, seed: int) -> dict[str, Any]:
    """What a network is beside the one of a task, on its test texts.

    ``head`` is what they are compared by, ``main`` the name of the first figure, ``texts`` and ``tokens`` how many they
    are of, and ``measures`` has the figures by the names of :data:`~simplicit.runs.hf.heads.MEASURES`.
    """
    held = task.held(seed)
    measures = task.head.measure(Both(evaluated(task.net), evaluated(sparse)), held)
    size = {"texts": len(held.mask), "tokens": int(held.mask.sum())}
    return {"head": task.head.title, "main": task.head.main, **size, "measures": measures}


@dataclass(frozen=True)
class TextEvaluation:
    """The figures of the fit in the folder ``run`` on the test texts of its ``task``."""

    run: Path
    seed: int
    task: TextTask
    figures: dict[str, Any]

    def results(self) -> dict[str, Any]:
        """The document of ``--json``; shares are in [0, 1], sparsity is in per cent."""
        return {"folder": self.run, "evaluation": self.figures}

    def save(self, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write ``evaluation.json`` and ``run.json``."""
        with run_folder(folder, overwrite=overwrite, kind="eval", inputs=[self.run]) as draft:
            write_json(draft / "evaluation.json", self.figures)
            settings = {"seed": self.seed}
            Manifest("eval", command, settings, self.task.provenance, packages=PACKAGES).write(draft)


def run_text_evaluation(
    run: Path, *, seed: int = 0, test_texts: Path | None = None, labels: Path | None = None
) -> TextEvaluation:
    """Measure the fit in a folder, on the texts that it was measured on or on others, beside the dense network."""
    nnz, total = weights_of(run)
    task = reopened_texts(run, test_texts=test_texts, labels=labels)
    sparse = load_pretrained(run / NETWORK)
    if type(sparse) is not type(task.net):
        raise DataError(f"{run / NETWORK / CONFIG}: is of another class than the network that was fitted")
    counts = {"sparsity": 100.0 * (1.0 - nnz / total), "nnz": nnz, "baseline_weights": total}
    task.provenance["model"] = {"state_dict": state_hash(sparse)}
    return TextEvaluation(run, seed, task, figures_of(task, sparse, seed) | counts)
