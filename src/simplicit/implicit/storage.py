r"""Models on disk: a folder with ``config.json`` and ``model.safetensors``; never pickle.

``config.json`` holds the groups with their activations, the shapes and the list of blocks, and seals both files
(:class:`~simplicit.files.Sealed`). ``model.safetensors`` holds both biases and, for block k of that list, arrays
``block.k.…`` (:mod:`~simplicit.implicit.maps.files`). A block is listed as [row, column] where it is stored as
compressed sparse rows; otherwise, since version 2, as [row, column, what it is]. Since version 3 there may be "inputs",
what lies where in U (:mod:`~simplicit.implicit.inputs`), and since version 4 weights that are repeated over positions,
and transposed convolutions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from simplicit.checks import as_path
from simplicit.errors import DataError, InputError
from simplicit.files import CONFIG, Sealed, check_entries
from simplicit.implicit import groups
from simplicit.implicit.groups import INPUT, OUTPUT, StateGroup
from simplicit.implicit.inputs import InputLayout
from simplicit.implicit.maps import LinearMap
from simplicit.implicit.maps.base import restored, stored_parts
from simplicit.implicit.maps.files import Arrays, Stored
from simplicit.implicit.model import ImplicitModel, as_model

ARRAYS = "model.safetensors"
FORMAT = "simplicit implicit model"
# The first knows compressed sparse rows only, the second neither blocks of states nor names of inputs, the third no
# weights that are repeated or transposed; each is written where it is enough.
PLAIN_VERSION, MAPS_VERSION, INPUTS_VERSION, VERSION = 1, 2, 3, 4
_FOLDER = Sealed("a model", ARRAYS, FORMAT, range(PLAIN_VERSION, VERSION + 1))
_SHARED = ("repeated", "gathered", "transposed")
_PLAIN = {"kind": "csr"}


def save(model: ImplicitModel, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write ``model`` to ``folder``, all of it or nothing.

    Parameters
    ----------
    model : ImplicitModel
    folder : path
    overwrite : bool
        Whether a model that is there is replaced.

    Raises
    ------
    InputError
        ``model`` is no ImplicitModel, or ``folder`` no path.
    DataError
        ``folder`` exists and ``overwrite`` is False, or it holds anything that is not a model's; writing fails.
    """
    config, arrays = _stored(as_model(model))
    target = as_path("folder", folder)
    payload = safetensors.numpy.save(arrays)
    _FOLDER.write(target, _FOLDER.text(config, payload), payload, overwrite=overwrite)


def _stored(model: ImplicitModel) -> tuple[dict[str, Any], Arrays]:
    """The config of a model, without its hash, and the arrays."""
    entries, arrays = stored_parts({f"block.{number}": block for number, block in enumerate(model.blocks.values())})
    blocks = [
        [*key] if entry == _PLAIN else [*key, entry] for key, entry in zip(model.blocks, entries.values(), strict=True)
    ]
    config = {
        "format": FORMAT,
        "version": _version(model, blocks),
        "dtype": str(model.dtype),
        "n_inputs": model.n_inputs,
        "n_outputs": model.n_outputs,
        "input_shape": list(model.input_shape),
        "output_shape": list(model.output_shape),
        "groups": [group.to_config() for group in model.groups],
        "blocks": blocks,
    }
    if model.inputs is not None:
        config["inputs"] = model.inputs.to_config()
    arrays = {"state_bias": model.state_bias, "output_bias": model.output_bias} | arrays
    for number, group in enumerate(model.groups):
        arrays |= {f"group.{number}.{name}": array for name, array in group.arrays.items()}
    # safetensors writes the memory as it lies there, so that a view or a transpose would come back scrambled.
    return config, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def load(folder: str | os.PathLike[str]) -> ImplicitModel:
    """Read the model that :func:`save` wrote to ``folder``; bit for bit the same.

    Raises
    ------
    InputError
        ``folder`` is no path.
    DataError
        A file is missing, damaged, truncated, of another format, or inconsistent; the message names file and defect.
    """
    path = as_path("folder", folder)
    config_file, array_file = path / CONFIG, path / ARRAYS
    config, payload = _FOLDER.read(path)
    arrays = _read_arrays(array_file, payload)
    try:
        optional = {"inputs": dict} if config["version"] >= INPUTS_VERSION and "inputs" in config else {}
        check_entries(config, _ENTRIES | optional, "the file")
        _FOLDER.check(path, config, payload)
        return _model(config, arrays, array_file)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        defect = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{config_file} does not describe a model: {defect}") from error


def _read_arrays(file: Path, payload: bytes) -> Arrays:
    try:
        return safetensors.numpy.load(payload)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{file} is damaged or truncated: {error}") from error


# What every object in config.json holds: each of these, and nothing else.
_ENTRIES: dict[str, type] = {
    "format": str,
    "version": int,
    "dtype": str,
    "n_inputs": int,
    "n_outputs": int,
    "input_shape": list,
    "output_shape": list,
    "groups": list,
    "blocks": list,
    "sha256": str,
}


def _model(config: Mapping[str, Any], arrays: Arrays, file: Path) -> ImplicitModel:
    p, q = config["n_inputs"], config["n_outputs"]
    if config["dtype"] not in ("float32", "float64"):
        raise InputError(f'"dtype" must be float32 or float64, got {config["dtype"]!r}')
    stored = Stored(config, (0, 0), np.dtype(config["dtype"]), arrays, file, CONFIG)
    members = [_group(entry, number, stored) for number, entry in enumerate(config["groups"])]
    rows = {group.name: group.pre_size for group in members} | {OUTPUT: q}
    columns = {group.name: group.size for group in members} | {INPUT: p}
    n = sum(group.pre_size for group in members)
    blocks: dict[tuple[str, str], LinearMap] = {}
    for number, (row, column, *described) in enumerate(config["blocks"]):
        if (row, column) in blocks:
            raise InputError(f"block {(row, column)} stands there twice")
        if row not in rows or column not in columns:
            raise InputError(f"block {(row, column)} is not one of a group, output or input")
        entry = described[0] if described else _PLAIN
        blocks[row, column] = restored(stored.part(f"block.{number}", entry, (rows[row], columns[column])))
    rest: dict[str, Any] = {name: stored.floats(name, size) for name, size in (("state_bias", n), ("output_bias", q))}
    stored.check_all_taken()
    rest |= {name: tuple(config[name]) for name in ("input_shape", "output_shape")}
    if "inputs" in config:
        rest["inputs"] = InputLayout.from_config(config["inputs"])
    return ImplicitModel(members, blocks, n_inputs=p, n_outputs=q, **rest).astype(stored.dtype)


def _version(model: ImplicitModel, blocks: list[Any]) -> int:
    """The first version that can hold a model."""
    if any(_has_shared(entry) for entry in blocks):
        return VERSION
    if model.inputs is not None or any("block" in group.to_config() for group in model.groups):
        return INPUTS_VERSION
    return PLAIN_VERSION if all(len(entry) == 2 for entry in blocks) else MAPS_VERSION


def _has_shared(entry: Any) -> bool:
    """Whether an entry of a block, or one within it, is of a kind that version 4 brought."""
    if isinstance(entry, list):
        return any(map(_has_shared, entry))
    return isinstance(entry, dict) and (entry.get("kind") in _SHARED or any(map(_has_shared, entry.values())))


def _group(entry: Any, number: int, stored: Stored) -> StateGroup:
    """The group of the kind whose entry there is; the first kind says what is missing where there is none."""
    kinds = [key for key in groups.KINDS if isinstance(entry, dict) and key in entry]
    key = kinds[0] if kinds else next(iter(groups.KINDS))
    check_entries(entry, {"name": str, "size": int, key: dict}, f"group {number}")
    return StateGroup.from_config(entry, stored.of_group(number))
