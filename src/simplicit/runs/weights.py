"""Weights from a file into a network, without ever running code that the file carries."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from simplicit.errors import DataError

_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts keep the state dictionary
_WRAPPED = "module."
_SHOWN = 3


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a safetensors file or a ``weights_only`` checkpoint into `net`, every tensor of it and nothing else.

    DataError is raised for a file that is missing, damaged, holds pickled objects, NaN or infinite values, or tensors
    that do not fit `net`.
    """
    state, own = read_state(path), net.state_dict()
    if not own.keys() & state.keys():  # of a network that was wrapped, as for training on several devices
        state = {name.removeprefix(_WRAPPED): tensor for name, tensor in state.items()}
    # Checkpoints of old versions of torch lack the counters of batch norms, which evaluation does not use.
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    state = counters | state
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        kinds = ("misses", missing), ("has unknown", unexpected)
        defects = [f"{kind} {_some(names)}" for kind, names in kinds if names]
        raise DataError(f"{path}: not the weights of this network, {' and '.join(defects)}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise DataError(f"{path}: {name} has shape {tuple(state[name].shape)}, the network {tuple(tensor.shape)}")
        if tensor.is_floating_point() != state[name].is_floating_point():  # torch would cast, and drop what is lost
            raise DataError(
                f"{path}: {name} has dtype {state[name].dtype}, the network {tensor.dtype}; save real weights, "
                "integers of a quantised network multiplied by their scales"
            )
    check_finite(state, path)
    net.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """Name to tensor from ``.safetensors`` or ``torch.save``; DataError for a file that is no such thing."""
    if not path.is_file():
        raise DataError(f"weights {path}: no such file")
    state: Any = read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: no state dictionary (name to tensor); save net.state_dict()")
    return {str(name): tensor for name, tensor in state.items()}


def write_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dictionary as safetensors, also where tensors share memory or are not contiguous; OSError if the
    file cannot be written."""
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    path.write_bytes(save(copies))


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse NaN and infinite values by a DataError that names the first tensor that has one."""
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {name} has NaN or infinite values; the training diverged, train again")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; DataError where it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or truncated safetensors file ({error})") from error


def _read_checkpoint(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise DataError(
                f"{path}: holds pickled objects beside tensors, which could run code, so it is refused; "
                "save net.state_dict() alone, best as .safetensors"
            ) from error
        raise DataError(f"{path}: damaged, truncated, or not a checkpoint of torch.save") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged, truncated, or not a checkpoint of torch.save") from error


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
