r"""Models on disk: a folder with ``config.json`` and ``model.safetensors``; never pickle.

``config.json`` holds the groups with their activations, the shapes, the list of blocks, and a SHA-256 of all that and
the other file: of the object without "sha256", as compact JSON with sorted keys in ASCII, followed by the other file.
``model.safetensors`` holds both biases and, for block k of that list, arrays ``block.k.…``
(:mod:`~simplicit.implicit.maps.files`). A block is listed as [row, column] where it is stored as compressed sparse
rows; otherwise, since version 2, as [row, column, what it is]. Since version 3 there may be "inputs", what lies where
in U (:mod:`~simplicit.implicit.inputs`), and since version 4 weights that are repeated over positions, and
transposed convolutions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from simplicit.checks import as_path
from simplicit.errors import DataError, InputError
from simplicit.files import drafted, dumps, read_json, writing
from simplicit.implicit import groups
from simplicit.implicit.groups import INPUT, OUTPUT, StateGroup
from simplicit.implicit.inputs import InputLayout
from simplicit.implicit.maps import LinearMap
from simplicit.implicit.maps.base import restored, stored_parts
from simplicit.implicit.maps.files import Arrays, Stored
from simplicit.implicit.model import ImplicitModel, as_model

CONFIG, ARRAYS = "config.json", "model.safetensors"
FORMAT = "simplicit implicit model"
# The first knows compressed sparse rows only, the second neither blocks of states nor names of inputs, the third no
# weights that are repeated or transposed; each is written where it is enough.
PLAIN_VERSION, MAPS_VERSION, INPUTS_VERSION, VERSION = 1, 2, 3, 4
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
    _check_target(target, overwrite)
    payload = safetensors.numpy.save(arrays)
    text = dumps(config | {"sha256": _digest(config, payload)}) + "\n"
    with writing(target), drafted(target) as draft:
        draft.mkdir()
        (draft / ARRAYS).write_bytes(payload)
        (draft / CONFIG).write_text(text, encoding="utf-8")


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise DataError(f"{target} exists; choose another folder or pass overwrite=True")
    if not target.is_dir():
        raise DataError(f"{target} is not a folder; choose another name")
    others = sorted(path.name for path in target.iterdir() if path.name not in (CONFIG, ARRAYS))
    if others:
        raise DataError(f"{target} holds more than a model ({', '.join(others[:3])}) and is not overwritten")


def _digest(config: Mapping[str, Any], payload: bytes) -> str:
    """The SHA-256 that both files share; ``config`` is without its entry "sha256"."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii") + payload).hexdigest()


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
    for file in (config_file, array_file):
        if not file.is_file():
            raise DataError(f"{file}: is not there; a model is a folder with {CONFIG} and {ARRAYS}")
    config = _read_config(config_file)
    payload, arrays = _read_arrays(array_file)
    try:
        optional = {"inputs": dict} if config["version"] >= INPUTS_VERSION and "inputs" in config else {}
        _check_entries(config, _ENTRIES | optional, "the file")
        sha256 = config.pop("sha256")
        if _digest(config, payload) != sha256:
            raise DataError(f"{path} is damaged: the SHA-256 of {CONFIG} and {ARRAYS} is not the one in {CONFIG}")
        return _model(config, arrays, array_file)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        defect = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{config_file} does not describe a model: {defect}") from error


def _read_config(file: Path) -> dict[str, Any]:
    config = read_json(file)
    if config.get("format") != FORMAT:
        raise DataError(f'{file} does not describe a model: "format" is not {FORMAT!r}')
    if config.get("version") not in range(PLAIN_VERSION, VERSION + 1):
        raise DataError(
            f"{file} has format version {config.get('version')!r}, this simplicit reads versions up to "
            f"{VERSION}; use the version of simplicit that wrote it"
        )
    return config


def _read_arrays(file: Path) -> tuple[bytes, Arrays]:
    try:
        payload = file.read_bytes()
        return payload, safetensors.numpy.load(payload)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
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


def _check_entries(found: Any, entries: Mapping[str, type], where: str) -> None:
    if not isinstance(found, dict):
        raise InputError(f"{where} must be an object, got {found!r}")
    for key, kind in entries.items():
        if key not in found:
            raise InputError(f"{where} lacks the entry {key!r}")
        if type(found[key]) is not kind:
            raise InputError(f"{where}: the entry {key!r} must be a JSON {_JSON[kind]}, got {found[key]!r:.80}")
    unknown = sorted(set(found) - set(entries))
    if unknown:
        raise InputError(f"{where} has the unknown entry {unknown[0]!r}")


_JSON = {str: "text", int: "integer", list: "array", dict: "object"}


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
    _check_entries(entry, {"name": str, "size": int, key: dict}, f"group {number}")
    return StateGroup.from_config(entry, stored.of_group(number))
