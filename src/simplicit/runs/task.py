"""A network and the data it is fitted and measured on, opened from settings."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from simplicit.checks import refused
from simplicit.data import Dataset, load_dataset
from simplicit.errors import DataError, InputError
from simplicit.files import file_hash, read_json
from simplicit.network.outputs import tensors_of
from simplicit.runs.baseline import CONFIG, WEIGHTS, load_baseline
from simplicit.runs.factory import load_network, load_program
from simplicit.runs.folder import MANIFEST
from simplicit.runs.hf.folder import CONFIG as HF_CONFIG
from simplicit.runs.hf.folder import load_pretrained
from simplicit.runs.settings import SAMPLES, Source, read_source, recorded_inputs
from simplicit.runtime.files.loading import files_of

#: So many of the tensors that changed are named.
_SHOWN = 3


@dataclass(frozen=True)
class Task:
    """A trained network, in eval mode, with its data.

    ``input_shape`` is that of one sample as the network takes it, ``provenance`` what was read, with hashes.
    """

    net: nn.Module
    data: Dataset
    input_shape: tuple[int, ...]
    provenance: dict[str, Any]

    def shaped(self, inputs: npt.NDArray[np.float32]) -> Tensor:
        """Samples (m, p) as the tensor (m, *input_shape) that the network takes."""
        return torch.from_numpy(inputs).reshape(len(inputs), *self.input_shape)

    def training_inputs(self, samples: int | None, seed: int) -> Tensor:
        """Different training samples, drawn at random by `seed`; 1,000, or all if there are fewer, if None."""
        available = len(self.data.train_labels)
        samples = min(SAMPLES, available) if samples is None else samples
        places = draw(samples, available, seed, f"the {available} of {self.data.name}")
        return self.shaped(self.data.train_inputs[places])


def draw(count: int, available: int, seed: int, all_of_them: str) -> npt.NDArray[np.int64]:
    """`count` different places among those `available`, at random, in order; InputError for what there is not."""
    if not 1 <= count <= available:
        raise InputError(f"samples must be between 1 and {all_of_them}, got {count}", argument="samples")
    return np.sort(np.random.default_rng(seed).choice(available, count, replace=False))


def open_task(source: Source, *, trust_pt2: bool = False) -> Task:
    """Load the network and the data that `source` names; InputError or DataError says what is missing or does not fit.

    `trust_pt2` allows a ``.pt2`` program, whose loading can run code. It is never taken from a file. A source of texts
    is refused: :func:`simplicit.runs.hf.task.open_texts` opens it.
    """
    if source.texts is not None:
        what = "are token ids, whole numbers, around which there is no box of small changes; attacks and certificates"
        raise refused("texts", f"{what} take networks that were fitted with --data", source.texts)
    name, data_dir, made = source.data, source.data_dir, None
    if source.baseline is not None:
        folder = source.baseline
        baseline = load_baseline(folder)
        net: nn.Module = baseline.net
        files = [folder / CONFIG, folder / WEIGHTS]
        if name is None and data_dir is None and baseline.data_dir is not None and baseline.data_dir.is_dir():
            data_dir = baseline.data_dir
        made = read_json(folder / MANIFEST).get("inputs") if (folder / MANIFEST).is_file() else None
        name = name or baseline.data
    else:
        net, files = _open_network(source, trust_pt2)
    data = load_dataset(str(name), data_dir)
    if source.baseline is not None and isinstance(made, Mapping):
        check_range(made, data, source.baseline)
    shape = source.input_shape or _shape_for(net, data)
    if math.prod(shape) != data.n_inputs:
        ours, theirs = ("x".join(map(str, one)) for one in (shape, data.input_shape))
        found = f"{ours} has {math.prod(shape)} values, a sample of {data.name} has {data.n_inputs} ({theirs})"
        raise refused("input_shape", found)
    if len(shape) > 2 and shape == (data.input_shape[-1], *data.input_shape[:-1]) != data.input_shape:
        raise _channels_last(data)  # the numbers would fit, in a wrong order
    hashes: dict[str, Any] = {path.name: file_hash(path) for path in files} | {
        "state_dict": state_hash(net),
        "tensors": tensor_hashes(net),
    }
    if source.model is not None or source.hf is not None:
        hashes["structure"] = _structure_hash(net)
    return Task(net, data, shape, {"network": hashes, "data": data.describe()})


def open_finished(
    run: Path,
    *,
    baseline: Path | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    trust_pt2: bool = False,
) -> Task:
    """What a finished fit was made from, with another baseline or other data where they are given.

    DataError is raised where the inputs are no longer those of the fit, InputError where other data do not suit it.
    """
    task = open_task(read_source(run, baseline=baseline, data=data, data_dir=data_dir), trust_pt2=trust_pt2)
    recorded = recorded_inputs(run)
    if baseline is None and data is None:
        check_unchanged(recorded, task.provenance, run / MANIFEST)
    check_range(recorded, task.data, run)
    return task


def _shape_for(net: nn.Module, data: Dataset) -> tuple[int, ...]:
    """Flat, unless the network takes only the data's own shape, or that with one channel.

    InputError is raised where it takes none of them, but channels first where the data has them last.
    """
    flat, own = (data.n_inputs,), data.input_shape
    for shape in (flat, own, (1, *own)):
        if _takes(net, data, shape):
            return shape
    if len(own) > 2 and _takes(net, data, (own[-1], *own[:-1])):
        raise _channels_last(data)
    return own if len(own) > 2 else flat


def _takes(net: nn.Module, data: Dataset, shape: tuple[int, ...]) -> bool:
    """Whether the network takes two samples of this shape, whatever their values."""
    values = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with torch.no_grad():
            outputs = net(torch.zeros(2, *shape, dtype=values.dtype))
    except Exception:  # the user's own forward may raise anything; the error is raised when the network is captured
        return False
    return any(tensor.shape[:1] == (2,) for tensor in tensors_of(outputs).values())


def _channels_last(data: Dataset) -> InputError:
    shape = ", ".join(map(str, ("m", *data.input_shape)))
    remedy = "transpose the arrays, np.moveaxis(inputs, -1, 1), and save them again"
    found = f"samples have shape ({shape}), channels last, the network takes them first"
    return refused("data", f"{found}; {remedy}", data.name)


def _open_network(source: Source, trust_pt2: bool) -> tuple[nn.Module, list[Path]]:
    weights = source.weights
    if source.hf is not None:
        return load_pretrained(source.hf), [source.hf / HF_CONFIG]
    if source.model is not None:
        return load_network(source.model, weights), files_of(weights) if weights else []
    if weights is None or weights.suffix != ".pt2":
        remedy = "name the network that they belong to with --model package.module:factory"
        raise refused("weights", remedy, weights)
    return load_program(weights, trust=trust_pt2), [weights]


def state_hash(net: nn.Module) -> str:
    """``"sha256:..."`` of the names, types, shapes and values of everything that `net` would save."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        for part in _parts_of(name, value):
            digest.update(part)
    return "sha256:" + digest.hexdigest()


def tensor_hashes(net: nn.Module) -> dict[str, str]:
    """By the name of everything that `net` would save, 16 digits of the same of it alone: what changed has a name."""
    hashes: dict[str, str] = {}
    for name, value in net.state_dict().items():
        digest = hashlib.sha256()
        for part in _parts_of(name, value):
            digest.update(part)
        hashes[name] = digest.hexdigest()[:16]
    return hashes


def _parts_of(name: str, value: Any) -> Iterator[bytes]:
    """Name, type, shape and values of what a network would save."""
    if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta or value.layout != torch.strided:
        yield f"{name} {type(value).__name__};".encode()  # no values: refused when it is captured
        return
    yield f"{name} {value.dtype} {tuple(value.shape)};".encode()
    yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _structure_hash(net: nn.Module) -> str:
    """``"sha256:..."`` of the modules in `net` and of the source of every ``forward`` that is not torch's own."""
    digest = hashlib.sha256(repr(net).encode())
    for kind in sorted({type(module) for module in net.modules()}, key=lambda kind: kind.__qualname__):
        if not kind.__module__.startswith("torch."):
            with suppress(OSError, TypeError):  # made at run time, without source
                digest.update(inspect.getsource(kind.forward).encode())
    return "sha256:" + digest.hexdigest()


def check_unchanged(recorded: Mapping[str, Any], found: Mapping[str, Any], config: Path) -> None:
    """Refuse to repeat a run, or to compare with it, where its inputs are no longer those that its manifest names."""
    for section in ("network", "data"):
        old, new = _section(recorded, section, config), found[section]
        inside = "hashes" if section == "data" else "tensors"
        parts, others = _section(old, inside, config), new.get(inside, {})
        first, second = (parts, others) if section == "data" else (old, new)
        changed = [name for name in first if name in second and name != inside and first[name] != second[name]]
        if changed:
            what = _facts(old, new) if section == "data" else _tensors(parts, others)
            raise DataError(
                f"{config}: {', '.join(changed)} changed since that run{what}, so it cannot be repeated or compared "
                f"with; restore the {section}, or name another one explicitly"
            )


def _tensors(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which tensors of a network are others, in brackets."""
    if not old:
        return ""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" (of {len(new)} tensors {', '.join(names[:_SHOWN]) or 'none'}{more})"


def _facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which facts of a data set are others, in brackets."""
    names = ("train_samples", "test_samples", "input_shape", "classes", "input_range")
    changed = [name for name in names if name in old and old[name] != new.get(name)]
    told = ", ".join(f"{name} {old[name]}, now {new.get(name)}" for name in changed)
    return f" ({told})" if told else ""


def check_range(recorded: Mapping[str, Any], data: Dataset, run: Path) -> None:
    """Refuse data whose values go beyond the range of a run by half of its width: pixels up to 255, say, not 1."""
    made = recorded.get("data")
    ends = made.get("input_range") if isinstance(made, Mapping) else None
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return
    (low, high), (least, largest) = ends, data.input_range
    if least < low - (high - low) / 2 or largest > high + (high - low) / 2:
        found = f"values from {least:g} to {largest:g}, {run} was made on values from {low:g} to {high:g}"
        remedy = "bring them into that range, as the network was trained (uint8 is divided by 255)"
        raise refused("data", f"{found}; {remedy}", data.name)


def check_labels(data: Dataset, outputs: int, what: str) -> None:
    """Refuse data with more classes than `what`, a network or model, has outputs."""
    if outputs < data.classes:
        found = f"they go up to {data.classes - 1}, the {what} has {outputs} outputs"
        remedy = "give the data that it was trained on with --data"
        raise InputError(f"the labels of {data.name} do not fit: {found}; {remedy}")


def _section(values: Mapping[str, Any], name: str, config: Path) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise DataError(f"{config}: damaged, {name!r} of its inputs must be an object, got {type(section).__name__}")
    return section
