r"""A network's weights on disk: a folder with ``config.json`` and ``weights.safetensors``; never pickle.

``config.json`` lists the tensors of the network's state_dict: their names, shapes and dtypes, in which form the places
of their non-zeros are (:mod:`~simplicit.runtime.files.packing`), in how many bytes, and how many values there are, of
which dtype if not their own. What a tensor shares with another is listed under "same". ``weights.safetensors`` has the
values of all tensors one after another, an array ``values.DTYPE`` for each dtype, and the bytes of all ``places``: a
network of many small tensors has no header for each. Both files are sealed (:class:`~simplicit.files.Sealed`).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from simplicit.checks import as_path, check_choice, check_flag, refused
from simplicit.errors import DataError, InputError, first_line
from simplicit.files import CONFIG, Sealed, check_entries
from simplicit.implicit import ImplicitModel
from simplicit.implicit import save as save_model
from simplicit.network.wrappers import plain
from simplicit.runtime.files.checkpoints import dense_bytes
from simplicit.runtime.files.packing import Bytes, Packed, all_finite, packed, unpacked

ARRAYS = "weights.safetensors"
FORMAT = "simplicit sparse weights"
VERSION = 1
#: What the values of weights are kept in.
VALUES = ("exact", "float16")
_FOLDER = Sealed("sparse weights", ARRAYS, FORMAT, range(1, VERSION + 1), seal="crc32")
_ENTRY: dict[str, type] = {"name": str, "shape": list, "dtype": str, "form": str, "places": int, "values": int}
_CONFIG: dict[str, type] = {"format": str, "version": int, "tensors": list, "same": dict, "crc32": str}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    )
}


@dataclass(frozen=True)
class SavedWeights:
    """What :func:`save` wrote of a network.

    Attributes
    ----------
    folder : Path
    bytes : int
        Of both files.
    dense_bytes : int
        Of the same state_dict as one safetensors file, a tensor under several names once.
    non_zeros, entries : int
        Of all tensors with two dimensions or more.
    forms : mapping of str to str
        In which form each tensor is, by its name, but for those that are the same as one before: dense, mask, steps8
        or steps16.
    change : float
        The largest difference of a value to the network's: 0.0 unless ``values="float16"``.
    names : tuple of str
        Of the tensors in the dense file.
    """

    folder: Path
    bytes: int
    dense_bytes: int
    non_zeros: int
    entries: int
    forms: Mapping[str, str]
    change: float
    names: tuple[str, ...]

    @cached_property
    def zipped_bytes(self) -> int:
        """Of the dense file after zlib, as in a zip archive; it is made from the folder when it is first asked for."""
        found = read_folder(self.folder)
        return zipped_size({name: found[name].dense() for name in self.names})

    def __repr__(self) -> str:
        return f"SavedWeights({self})"

    def __str__(self) -> str:
        share = self.bytes / max(self.dense_bytes, 1)
        return f"{self.folder}: {self.bytes:,} bytes, {share:.1%} of {self.dense_bytes:,} as a dense safetensors file"


def save(
    model: ImplicitModel | nn.Module, folder: str | os.PathLike[str], *, overwrite: bool = False, values: str = "exact"
) -> SavedWeights | None:
    """Write an implicit model, or the weights of a network, to a folder, all of it or nothing; never pickle.

    Parameters
    ----------
    model : ImplicitModel or torch.nn.Module
        :func:`simplicit.load` reads a model back. Of a network the parameters and buffers of its state_dict are
        written, each as its non-zeros where that is smaller; :func:`simplicit.load_weights` puts them into a network of
        the same class. Masks of ``torch.nn.utils.prune`` and other parametrisations go in as the plain weights that
        they make in evaluation mode, and what ``torch.compile`` or ``DataParallel`` wraps as the network inside.
    folder : path
    overwrite : bool
        Whether what is there is replaced, if it is of the same kind.
    values : {"exact", "float16"}
        "float16" rounds a network's weights with two dimensions or more, if they are wider and finite: a relative
        error of up to 2⁻¹¹, and what is below 6e-8 is lost. It is *not* exact; ``change`` of the result says how far
        off it is.

    Returns
    -------
    SavedWeights or None
        Of a network, how many bytes it takes, beside the dense file.

    Raises
    ------
    InputError
        ``model`` is neither, or a network with no values, with NaN or infinite ones outside its buffers, or with state
        that is no tensor; ``values`` is "float16" for a model or for weights beyond 65504; ``folder`` is no path.
    DataError
        ``folder`` exists and ``overwrite`` is False, or it holds anything else; writing fails.
    """
    check_choice("values", values, VALUES)
    check_flag("overwrite", overwrite)
    if isinstance(model, nn.Module):
        return save_state(network_state(model), as_path("folder", folder), overwrite=overwrite, values=values)
    if not isinstance(model, ImplicitModel):
        remedy = "of a fit, save result.model or result.network()"
        raise refused("model", f"must be an ImplicitModel or a torch.nn.Module, got {type(model).__name__}; {remedy}")
    if values != "exact":
        raise refused("values", "is for networks; an implicit model is written exactly, leave it out")
    save_model(model, folder, overwrite=overwrite)
    return None


def network_state(net: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a network, with computed weights as plain ones, on the CPU; InputError for what has no file.

    InputError is raised for tensors without values, of a layout or dtype that files do not have, with NaN or infinite
    values where they are no buffers, which masks of attention are, and for state that is no tensor.
    """
    inner, found = plain(net), dict[str, Tensor]()
    buffers = {name for name, _ in inner.named_buffers(remove_duplicate=False)}
    for name, value in inner.state_dict().items():
        if not isinstance(value, Tensor):
            raise refused("net", f"state {name!r} is {type(value).__name__}, no tensor; without pickle it has no file")
        if is_lazy(value) or value.is_meta:
            raise refused("net", f"{name!r} has no values yet; run the network once, or load its weights, before")
        if value.layout != torch.strided or value.dtype not in _DTYPES.values():
            raise refused("net", f"{name!r} is {value.layout} with dtype {value.dtype}; save it as a dense tensor")
        if name not in buffers and not all_finite(value):
            raise refused("net", f"{name!r} holds NaN or infinite values; the training diverged, train again")
        found[name] = value.detach().cpu()
    return found


def save_state(
    state: Mapping[str, Tensor], target: Path, *, overwrite: bool = False, values: str = "exact"
) -> SavedWeights:
    """Write a state_dict of CPU tensors to a folder as :func:`save` does the weights of a network.

    DataError is raised where it cannot be written, InputError where ``values`` is ``"float16"`` and some are too large.
    """
    packing = _Packing(state, values)
    text, payload = packing.files()
    _FOLDER.write(target, text, payload, overwrite=overwrite)
    once = untied(state)
    weights = [tensor for tensor in once.values() if tensor.ndim >= 2]
    return SavedWeights(
        folder=target,
        bytes=len(text.encode()) + len(payload),
        dense_bytes=len(dense_bytes(once)),
        non_zeros=sum(map(_non_zeros, weights)),
        entries=sum(tensor.numel() for tensor in weights),
        forms={entry["name"]: entry["form"] for entry in packing.entries},
        change=packing.change,
        names=tuple(once),
    )


class _Packing:
    """The tensors of a state_dict, packed one after another."""

    def __init__(self, state: Mapping[str, Tensor], values: str = "exact") -> None:
        self._narrow = values == "float16"
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._places: list[Bytes] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self.entries: list[dict[str, Any]] = []
        self.same: dict[str, str] = {}
        self.change = 0.0
        for name, tensor in state.items():
            self._add(name, tensor)

    def _add(self, name: str, tensor: Tensor) -> None:
        form, places, values = packed(self._narrowed(name, tensor))
        contents = hashlib.sha256(places.data)
        contents.update(values.contiguous().view(torch.uint8).numpy().data)
        key = (contents.digest(), form, tensor.shape, tensor.dtype)
        if key in self._known:
            self.same[name] = self._known[key]
            return
        self._known[key] = name
        self.entries.append({"name": name, "shape": list(tensor.shape), "dtype": _name(tensor.dtype), "form": form})
        self.entries[-1] |= {"places": places.size, "values": values.numel()}
        self.entries[-1] |= {} if values.dtype == tensor.dtype else {"stored": _name(values.dtype)}
        self._values[_name(values.dtype)].append(values)
        self._places.append(places)

    def _narrowed(self, name: str, tensor: Tensor) -> Tensor:
        """A weight as float16 where that is asked for; biases, scales and statistics stay, for they are few."""
        if not self._narrow or tensor.ndim < 2 or tensor.dtype not in (torch.float32, torch.float64):
            return tensor
        if not all_finite(tensor):  # a mask of attention
            return tensor
        found = tensor.half()
        if not all_finite(found):
            largest = float(tensor.abs().max())
            raise InputError(
                f"values: {name!r} has a weight of {largest:.3g}, float16 goes to 65504; take values='exact'",
                argument="values",
            )
        if tensor.numel():
            self.change = max(self.change, float((found.to(tensor.dtype) - tensor).abs().max()))
        return found

    def files(self) -> tuple[str, bytes]:
        """What ``config.json`` and ``weights.safetensors`` hold."""
        arrays = {f"values.{dtype}": torch.cat(found) for dtype, found in self._values.items()}
        arrays["places"] = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *self._places]))
        payload = tensor_bytes(arrays)
        config = {"format": FORMAT, "version": VERSION, "tensors": self.entries, "same": self.same}
        return _FOLDER.text(config, payload, lines=False), payload


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _non_zeros(tensor: Tensor) -> int:
    """How many entries are not zero, also of dtypes that torch counts none of."""
    counted = tensor.dtype.is_complex or tensor.dtype == torch.float64
    return int((tensor if counted else tensor.float()).count_nonzero())


def untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with each tensor that is there under several names under the first of them."""
    found: dict[Any, tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        found.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name, (name, tensor))
    return dict(found.values())


def file_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes of a state_dict of CPU tensors: a ``dense`` safetensors file, that ``zipped``, and a ``sparse`` folder."""
    once, (text, payload) = untied(state), _Packing(state).files()
    return {"dense": len(dense_bytes(once)), "zipped": zipped_size(once), "sparse": len(text.encode()) + len(payload)}


def zipped_size(state: Mapping[str, Tensor]) -> int:
    """The bytes of the dense safetensors file of a state_dict after zlib, at its usual level."""
    return len(zlib.compress(dense_bytes(state)))


def read_folder(folder: Path) -> dict[str, Packed]:
    """The tensors that are in a folder, every place and number checked; DataError names the file and what is wrong."""
    config, payload = _FOLDER.read(folder)
    try:
        check_entries(config, _CONFIG, "the file")
        _FOLDER.check(folder, config, payload)
        arrays = read_tensors(payload)
        return _Unpacking(arrays).state(config["tensors"], config["same"])
    except SafetensorError as error:
        raise DataError(f"{folder / ARRAYS} is damaged or truncated: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        defect = f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(f"{folder / CONFIG} does not describe sparse weights: {defect}") from error


class _Unpacking:
    """Takes what tensors need from the arrays, from their beginnings to their ends."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self._arrays = arrays
        self._taken = dict.fromkeys(arrays, 0)
        self._finite = {name: all_finite(array) for name, array in arrays.items()}  # of all at once: calls take longer

    def state(self, entries: list[Any], same: Mapping[str, Any]) -> dict[str, Packed]:
        found = dict[str, Packed]()
        for number, entry in enumerate(entries):
            optional = {"stored": str} if isinstance(entry, dict) and "stored" in entry else {}
            check_entries(entry, _ENTRY | optional, f"tensor {number}")
            if entry["name"] in found:
                raise InputError(f"tensor {entry['name']!r} stands there twice")
            found[entry["name"]] = self._tensor(entry)
        for name, taken in self._taken.items():
            if taken != self._arrays[name].numel():
                raise InputError(f"{ARRAYS} holds {self._arrays[name].numel()} of {name}, {taken} are listed")
        return found | {name: found[other] for name, other in same.items()}

    def _tensor(self, entry: Mapping[str, Any]) -> Packed:
        name, shape, dtype = entry["name"], entry["shape"], _DTYPES[entry["dtype"]]
        if not all(type(length) is int and length >= 0 for length in shape):
            raise InputError(f"tensor {name!r} has the shape {shape!r:.80}")
        stored = entry.get("stored", entry["dtype"])
        values = self._part(f"values.{stored}", entry["values"])
        if values.dtype != _DTYPES[stored]:
            raise InputError(f"tensor {name!r} has values of dtype {values.dtype}")
        try:
            places, finite = self._part("places", entry["places"]), self._finite[f"values.{stored}"]
            found = unpacked(entry["form"], places, values, shape, finite=finite)
        except ValueError as error:
            raise InputError(f"tensor {name!r} has {error}") from error
        return found if values.dtype == dtype else replace(found, values=found.values.to(dtype))

    def _part(self, array: str, length: int) -> Tensor:
        start, found = self._taken[array], self._arrays[array]
        if found.ndim != 1 or not 0 <= length <= found.numel() - start:
            raise InputError(f"{ARRAYS} holds fewer of {array} than are listed")
        self._taken[array] = start + length
        return found.narrow(0, start, length)
