"""State dictionaries in one file, dense: read without ever running code that the file carries, and written."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from simplicit.errors import DataError

# Where training scripts keep the state dictionary.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")


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
    """Write a state dictionary as safetensors; OSError if the file cannot be written."""
    path.write_bytes(dense_bytes(state))


def dense_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state dictionary as a safetensors file, also where tensors share memory or are not contiguous."""
    return save({name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()})


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
