"""A baseline and its folder: ``config.json`` (what it is), ``weights.safetensors``, ``run.json`` (how it was made)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simplicit.data import DATASETS, Dataset
from simplicit.errors import DataError
from simplicit.files import read_json, write_json
from simplicit.progress import OnProgress
from simplicit.robustness import accuracy
from simplicit.runs.folder import Manifest, kind_of, relative_to, run_folder
from simplicit.runs.mlp import MlpSettings, build_mlp, train_mlp
from simplicit.runtime.files.checkpoints import check_finite, read_safetensors, write_state

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
#: 2: accuracies are shares.
FORMAT = 2


@dataclass(frozen=True)
class Baseline:
    """A trained multilayer perceptron and what it was trained on.

    ``net`` is in eval mode, from inputs (m, p) to logits (m, q), p ``n_inputs`` and q ``classes``. ``data`` and
    ``data_dir`` are as :func:`simplicit.data.load_dataset` took them; accuracies are shares in [0, 1], ``seconds`` are
    wall-clock time of the training.
    """

    net: nn.Sequential
    settings: MlpSettings
    n_inputs: int
    classes: int
    data: str
    train_accuracy: float
    test_accuracy: float
    seconds: float
    data_dir: Path | None = None

    def data_in(self, folder: Path) -> dict[str, str | None]:
        """``data`` and ``data_dir`` as `folder` is to name them."""
        return {
            "data": self.data if self.data in DATASETS else relative_to(Path(self.data), folder),
            "data_dir": None if self.data_dir is None else relative_to(self.data_dir, folder),
        }

    def describe(self) -> str:
        """The network in a few characters: ``784-64-32-16-10 relu, no bias``."""
        widths = "-".join(map(str, (self.n_inputs, *self.settings.arch, self.classes)))
        return f"{widths} {self.settings.activation}, {'with' if self.settings.bias else 'no'} bias"

    def to_config(self, folder: Path) -> dict[str, Any]:
        """The document ``config.json`` in `folder`."""
        return {
            "format": FORMAT,
            "kind": "mlp",
            "widths": [self.n_inputs, *self.settings.arch, self.classes],
            "bias": self.settings.bias,
            "activation": self.settings.activation,
            **self.data_in(folder),
            "settings": self.settings.to_config(),
            "train_accuracy": self.train_accuracy,
            "test_accuracy": self.test_accuracy,
            "seconds": round(self.seconds, 3),
        }


def make_baseline(
    data: Dataset,
    settings: MlpSettings,
    *,
    data_dir: Path | None = None,
    progress: OnProgress | None = None,
) -> Baseline:
    """Train a multilayer perceptron on `data` and measure it; see :class:`Baseline` and ``train_mlp``."""
    start = time.perf_counter()
    net = train_mlp(data, settings, progress=progress)
    seconds = time.perf_counter() - start
    train = accuracy(net, data.train_inputs, data.train_labels)
    test = accuracy(net, data.test_inputs, data.test_labels)
    return Baseline(net, settings, data.n_inputs, data.classes, data.name, train, test, seconds, data_dir)


def save_baseline(
    baseline: Baseline, folder: Path, *, manifest: Manifest | None = None, overwrite: bool = False
) -> None:
    """Write a baseline's folder; `manifest` says how it was made, by default its settings only."""
    manifest = manifest or Manifest("baseline", settings=baseline.settings.to_config() | baseline.data_in(folder))
    inputs = [] if baseline.data in DATASETS else [Path(baseline.data)]
    inputs += [] if baseline.data_dir is None else [baseline.data_dir]
    with run_folder(folder, overwrite=overwrite, kind="baseline", inputs=inputs) as draft:
        write_state(baseline.net.state_dict(), draft / WEIGHTS)
        write_json(draft / CONFIG, baseline.to_config(folder))
        manifest.write(draft)


def load_baseline(folder: Path) -> Baseline:
    """Read a baseline's folder back; the network is in eval mode.

    DataError is raised where a file is missing, truncated or damaged, or weights and configuration do not fit.
    """
    if not folder.is_dir():
        raise DataError(
            f"baseline {folder}: no such folder; `simplicit baseline --output {folder}` makes one; "
            "if it lies elsewhere, name it: simplicit fit FOLDER, or simplicit eval RUN with --baseline FOLDER"
        )
    kind = kind_of(folder)
    if isinstance(kind, str) and kind != "baseline":
        raise DataError(f"baseline {folder}: written by `simplicit {kind}`; a folder of `simplicit baseline` is needed")
    config = read_json(folder / CONFIG)
    try:
        if config["kind"] != "mlp":
            raise DataError(f"{folder / CONFIG}: kind {config['kind']!r}, expected a folder of `simplicit baseline`")
        if config["format"] != FORMAT:
            raise DataError(f"{folder / CONFIG}: format {config['format']}, this version reads {FORMAT}")
        values = config["settings"]
        settings = MlpSettings(**(values | {"arch": tuple(values["arch"])}))
        widths = _widths(config["widths"], settings)
        figures = float(config["train_accuracy"]), float(config["test_accuracy"]), float(config["seconds"])
        data, data_dir = str(config["data"]), config["data_dir"]
        data = data if data in DATASETS else os.path.normpath(folder / data)
        data_dir = None if data_dir is None else Path(os.path.normpath(folder / data_dir))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{folder / CONFIG}: damaged or not of a baseline ({what})") from error
    net = _load_network(widths, settings, folder / WEIGHTS)
    return Baseline(net, settings, widths[0], widths[-1], data, *figures, data_dir)


def _widths(widths: Any, settings: MlpSettings) -> list[int]:
    """All widths, inputs and outputs included; ValueError for what they cannot be beside these settings."""
    if not isinstance(widths, list) or len(widths) < 2 or not all(type(width) is int and width > 0 for width in widths):
        raise ValueError(f"widths must be two or more positive integers, got {widths!r}"[:200])
    if tuple(widths[1:-1]) != settings.arch:
        raise ValueError(f"widths {widths} contradict arch {list(settings.arch)} of its settings"[:200])
    return widths


def _load_network(widths: list[int], settings: MlpSettings, path: Path) -> nn.Sequential:
    if not path.is_file():
        raise DataError(f"{path}: missing; train the baseline again")
    state, ends = read_safetensors(path), (widths[0], widths[-1])
    with torch.device("meta"):  # shapes first: damaged widths must not take memory
        wanted = {name: tuple(value.shape) for name, value in build_mlp(*ends, settings).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        raise DataError(f"{path}: does not fit {CONFIG}, expected the shapes {wanted}, got {found}"[:400])
    check_finite(state, path)
    net = build_mlp(*ends, settings)
    net.load_state_dict(state)
    return net.eval()
