"""A baseline and its folder: ``config.json`` (what it is), ``weights.safetensors``, ``run.json`` (how it was made)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn

from simplicit.data import DATASETS, Dataset
from simplicit.errors import DataError
from simplicit.experiments.mlp import MlpSettings, build_mlp, network_accuracy, train_mlp
from simplicit.experiments.run import Manifest, read_json, relative_to, run_folder, write_json
from simplicit.experiments.weights import check_finite

__all__ = ["Baseline", "load_baseline", "make_baseline", "save_baseline"]

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Baseline:
    """A trained multilayer perceptron and what it was trained on.

    Parameters
    ----------
    net : nn.Sequential
        In eval mode; inputs (m, p), logits (m, q).
    settings : MlpSettings
    n_inputs, classes : int
        p and q.
    data : str
        The data set, as :func:`simplicit.data.load_dataset` takes it.
    train_accuracy, test_accuracy : float
        Per cent.
    seconds : float
        Wall-clock time of the training.
    data_dir : Path, optional
        The folder that was named for the files of the data set.
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
    on_epoch: Callable[[int, float], None] | None = None,
) -> Baseline:
    """Train a multilayer perceptron on `data` and measure it; see :class:`Baseline` and ``train_mlp``."""
    start = time.perf_counter()
    net = train_mlp(data, settings, on_epoch)
    seconds = time.perf_counter() - start
    train, test = (
        network_accuracy(net, torch.from_numpy(inputs), torch.from_numpy(labels))
        for inputs, labels in ((data.train_inputs, data.train_labels), (data.test_inputs, data.test_labels))
    )
    return Baseline(net, settings, data.n_inputs, data.classes, data.name, train, test, seconds, data_dir)


def save_baseline(
    baseline: Baseline, folder: Path, *, manifest: Manifest | None = None, overwrite: bool = False
) -> None:
    """Write a baseline's folder, whole or not at all.

    Parameters
    ----------
    baseline : Baseline
    folder : Path
    manifest : Manifest, optional
        How it was made; default: its settings only.
    overwrite : bool
        Replace the folder of an earlier run.

    Raises
    ------
    InputError
        `folder` exists and may not be replaced.
    """
    manifest = manifest or Manifest("baseline", settings=baseline.settings.to_config() | baseline.data_in(folder))
    with run_folder(folder, overwrite=overwrite) as draft:
        state = {name: tensor.contiguous() for name, tensor in baseline.net.state_dict().items()}
        (draft / WEIGHTS).write_bytes(serialise(state))
        write_json(draft / CONFIG, baseline.to_config(folder))
        manifest.write(draft)


def load_baseline(folder: Path) -> Baseline:
    """Read a baseline's folder back; the network is in eval mode.

    Raises
    ------
    DataError
        A file is missing, truncated or damaged, or weights and configuration do not fit.
    """
    if not folder.is_dir():
        raise DataError(f"baseline {folder}: no such folder; `simplicit baseline --output {folder}` makes one")
    config = read_json(folder / CONFIG)
    try:
        if config["kind"] != "mlp":
            raise DataError(f"{folder / CONFIG}: kind {config['kind']!r}, expected a folder of `simplicit baseline`")
        if config["format"] != FORMAT:
            raise DataError(f"{folder / CONFIG}: format {config['format']}, this version reads {FORMAT}")
        values = config["settings"]
        settings = MlpSettings(**(values | {"arch": tuple(values["arch"])}))
        n_inputs, classes = int(config["widths"][0]), int(config["widths"][-1])
        net = build_mlp(n_inputs, classes, settings)
        figures = float(config["train_accuracy"]), float(config["test_accuracy"]), float(config["seconds"])
        data, data_dir = str(config["data"]), config["data_dir"]
        data = data if data in DATASETS else os.path.normpath(folder / data)
        data_dir = None if data_dir is None else Path(os.path.normpath(folder / data_dir))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{folder / CONFIG}: damaged or not of a baseline ({what})") from error
    _load_weights(net, folder / WEIGHTS)
    return Baseline(net, settings, n_inputs, classes, data, *figures, data_dir)


def _load_weights(net: nn.Sequential, path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: missing; train the baseline again")
    try:
        state = load_file(path)
        net.load_state_dict(state)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or truncated ({error})") from error
    except RuntimeError as error:
        raise DataError(f"{path}: does not fit {CONFIG} ({' '.join(str(error).split())[:200]})") from error
    check_finite(state, path)
    net.eval()
