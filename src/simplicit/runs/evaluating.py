"""A finished fit measured on the test part of its data, and the folder of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.files import file_hash, write_json
from simplicit.implicit import load
from simplicit.progress import OnProgress
from simplicit.runs.evaluate import Evaluation, EvaluationSettings, evaluate
from simplicit.runs.fitting import capture_task, weights_of
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.task import Task, open_finished


@dataclass(frozen=True)
class EvaluationRun:
    """The figures of the fit in the folder ``run``, beside the network of its ``task``."""

    run: Path
    settings: EvaluationSettings
    task: Task
    figures: Evaluation

    def results(self) -> dict[str, Any]:
        """The document of ``--json``; accuracies are shares in [0, 1], sparsity is in per cent."""
        return {"folder": self.run, "evaluation": self.figures}

    def save(self, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write ``evaluation.json`` and ``run.json``."""
        hashes = {name: file_hash(self.run / name) for name in ("config.json", "model.safetensors")}
        inputs = self.task.provenance | {"model": hashes}
        with run_folder(folder, overwrite=overwrite, kind="eval", inputs=[self.run]) as draft:
            write_json(draft / "evaluation.json", self.figures)
            Manifest("eval", command, vars(self.settings), inputs).write(draft)


def run_evaluation(
    run: Path, settings: EvaluationSettings, *, progress: OnProgress | None = None, **source: Any
) -> EvaluationRun:
    """Measure the fit in a folder; ``source`` is as in :func:`simplicit.runs.task.open_finished`, and so is what is
    raised."""
    (nnz, total), model, task = weights_of(run), load(run), open_finished(run, **source)
    baseline = capture_task(task).model
    return EvaluationRun(
        run, settings, task, evaluate(model, baseline, total, task.data, settings, nnz=nnz, progress=progress)
    )
