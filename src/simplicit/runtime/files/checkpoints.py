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

# Where training scripts keep the state dictionary.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
# What wrappers put before all names: data parallel training, torch.compile, Lightning and modules around a network.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_SHOWN = 3


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a safetensors file or a ``weights_only`` checkpoint into `net`, every tensor of it and nothing else.

    Names may stand behind those of wrappers (``module.``, ``_orig_mod.``, ``model.``), weights beside the masks of
    ``torch.nn.utils.prune``, and tensors that `net` shares under one of their names.

    DataError is raised for a file that is missing, damaged, holds pickled objects, NaN or infinite values, or tensors
    that do not fit `net`.
    """
    own = net.state_dict()
    state = _shared(_unmasked(_unwrapped(read_state(path), own), own), own)
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


def _unwrapped(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without what wrappers put before all of its names, as long as none is a name of the network's own."""
    while not own.keys() & state.keys():
        before = next((one for one in _WRAPPERS if all(name.startswith(one) for name in state)), None)
        if before is None:
            break
        state = {name.removeprefix(before): tensor for name, tensor in state.items()}
    return state


def _unmasked(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with products in the place of weights and their masks, where the network knows neither."""
    found = dict(state)
    for name in state:
        whole = name.removesuffix("_orig")
        mask = f"{whole}_mask"
        if name != whole and whole in own and name not in own and mask in state and mask not in own:
            weight, kept = found.pop(name), found.pop(mask)
            found[whole] = weight * kept if weight.shape == kept.shape else weight
    return found


def _shared(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with every name of a tensor that the network has under several, of which one is there."""
    places: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in own.items():
        if name in state and tensor.numel():
            places[tensor.data_ptr(), tensor.shape, tensor.stride()] = name
    keys = {name: (tensor.data_ptr(), tensor.shape, tensor.stride()) for name, tensor in own.items()}
    more = {name: state[places[key]] for name, key in keys.items() if name not in state and key in places}
    return state | more


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
