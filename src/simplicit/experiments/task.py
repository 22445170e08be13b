"""A network and the data it is fitted and measured on, opened from settings."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from simplicit.data import Dataset, load_dataset
from simplicit.errors import DataError, InputError
from simplicit.experiments.baseline import CONFIG, WEIGHTS, load_baseline
from simplicit.experiments.network import load_network, load_program
from simplicit.experiments.run import file_hash
from simplicit.experiments.settings import FitSettings

__all__ = ["Task", "check_unchanged", "open_task"]


@dataclass(frozen=True)
class Task:
    """A trained network with its data.

    Parameters
    ----------
    net : nn.Module
        In eval mode.
    data : Dataset
    input_shape : tuple of int
        Shape of one sample as `net` takes it.
    inputs : dict
        What was read, with hashes, for the manifest.
    """

    net: nn.Module
    data: Dataset
    input_shape: tuple[int, ...]
    inputs: dict[str, Any]

    def shaped(self, inputs: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
        """Samples (m, p) as the tensor (m, *input_shape) that the network takes."""
        return torch.from_numpy(inputs).reshape(len(inputs), *self.input_shape)

    def training_inputs(self, samples: int, seed: int) -> Tensor:
        """`samples` different training samples, drawn at random by `seed`.

        Raises
        ------
        InputError
            Fewer than one or more than there are.
        """
        available = len(self.data.train_labels)
        if not 1 <= samples <= available:
            raise InputError(f"samples must be between 1 and the {available} of {self.data.name}, got {samples}")
        chosen = np.random.default_rng(seed).choice(available, samples, replace=False)
        return self.shaped(self.data.train_inputs[np.sort(chosen)])


def open_task(settings: FitSettings, *, trust_pt2: bool = False) -> Task:
    """Load the network and the data that `settings` name.

    Parameters
    ----------
    settings : FitSettings
    trust_pt2 : bool
        Allow a ``.pt2`` program, whose loading can run code. Never taken from a file.

    Raises
    ------
    InputError, DataError
        Something is missing, damaged, or does not fit; the message says what.
    """
    name, data_dir = settings.data, settings.data_dir
    if settings.baseline is not None:
        folder = Path(settings.baseline)
        baseline = load_baseline(folder)
        net: nn.Module = baseline.net
        files = [folder / CONFIG, folder / WEIGHTS]
        if name is None and data_dir is None and baseline.data_dir is not None and baseline.data_dir.is_dir():
            data_dir = str(baseline.data_dir)
        name = name or baseline.data
    else:
        net, files = _open_network(settings, trust_pt2)
    data = load_dataset(str(name), data_dir)
    shape = settings.input_shape or _shape_for(net, data)
    if math.prod(shape) != data.n_inputs:
        raise InputError(
            f"input shape {'x'.join(map(str, shape))} has {math.prod(shape)} values, a sample of {data.name} has "
            f"{data.n_inputs} ({'x'.join(map(str, data.input_shape))})"
        )
    hashes = {path.name: file_hash(path) for path in files} | {"state_dict": _state_hash(net)}
    if settings.model is not None:
        hashes["structure"] = _structure_hash(net)
    return Task(net, data, shape, {"network": hashes, "data": data.describe()})


def _shape_for(net: nn.Module, data: Dataset) -> tuple[int, ...]:
    """Flat, unless only the data's own shape is one that the network takes."""
    flat = (data.n_inputs,)
    samples = torch.from_numpy(data.test_inputs[:2])
    for shape in (flat, data.input_shape):
        try:
            with torch.no_grad():
                net(samples.reshape(len(samples), *shape))
        except Exception:  # the user's own forward may raise anything; the error is told when the network is captured
            continue
        return shape
    return flat


def _open_network(settings: FitSettings, trust_pt2: bool) -> tuple[nn.Module, list[Path]]:
    weights = Path(settings.weights) if settings.weights is not None else None
    if settings.model is not None:
        return load_network(settings.model, weights), [weights] if weights else []
    if weights is None or weights.suffix != ".pt2":
        raise InputError(f"weights {weights}: name the network that they belong to with --model package.module:factory")
    return load_program(weights, trust=trust_pt2), [weights]


def _state_hash(net: nn.Module) -> str:
    """``"sha256:..."`` of the names, types, shapes and values of everything that `net` would save."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta or value.layout != torch.strided:
            digest.update(f"{name} {type(value).__name__};".encode())  # no values: refused when it is captured
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()


def _structure_hash(net: nn.Module) -> str:
    """``"sha256:..."`` of the modules in `net` and of the source of every ``forward`` that is not torch's own."""
    digest = hashlib.sha256(repr(net).encode())
    for kind in sorted({type(module) for module in net.modules()}, key=lambda kind: kind.__qualname__):
        if not kind.__module__.startswith("torch."):
            with suppress(OSError, TypeError):  # made at run time, without source
                digest.update(inspect.getsource(kind.forward).encode())
    return "sha256:" + digest.hexdigest()


def check_unchanged(recorded: Mapping[str, Any], found: Mapping[str, Any], config: Path) -> None:
    """Refuse to repeat a run, or to compare with it, where its inputs are no longer those that its manifest names.

    Raises
    ------
    DataError
        Naming what changed; or `recorded` is damaged.
    """
    for section in ("network", "data"):
        old, new = _section(recorded, section, config), found[section]
        if section == "data":
            old, new = _section(old, "hashes", config), new["hashes"]
        changed = [name for name in old if name in new and old[name] != new[name]]
        if changed:
            raise DataError(
                f"{config}: {', '.join(changed)} changed since that run, so it cannot be repeated or compared with; "
                f"restore the {section}, or name another one explicitly"
            )


def _section(values: Mapping[str, Any], name: str, config: Path) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise DataError(f"{config}: damaged, {name!r} of its inputs must be an object, got {type(section).__name__}")
    return section
