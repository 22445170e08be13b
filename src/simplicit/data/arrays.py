"""The user's own data: NumPy files, opened without pickle, every defect named.

Accepted layouts of a path:

==========================================  =================================================================
``train.npz`` and ``test.npz`` in a folder  each with the keys ``inputs`` and ``labels``
``data.npz`` in a folder, or one ``.npz``   ``train_inputs, train_labels, test_inputs, test_labels``, or ``inputs,
                                            labels`` (then split), or the first four with ``images`` for ``inputs``
``inputs.npy`` and ``labels.npy``           in a folder (then split)
==========================================  =================================================================

Data without a split of its own is split 80 : 20, stratified, by `seed`. ``uint8`` inputs are divided by 255. Where the
values then leave [0, 1], ``input_range`` is their smallest and largest value over both parts.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simplicit.data.dataset import Dataset, as_inputs, as_labels
from simplicit.errors import DataError

__all__ = ["load_arrays", "load_npz"]

Array = npt.NDArray[np.generic]
_LAYOUTS = "train.npz and test.npz, or data.npz, or inputs.npy and labels.npy"


def load_arrays(path: Path, seed: int = 0) -> Dataset:
    """A data set from NumPy files; the accepted layouts are those of the module's docstring.

    Parameters
    ----------
    path : Path
        A folder or one ``.npz`` file.
    seed : int
        Decides the split of data that comes without one.

    Raises
    ------
    DataError
        Missing, damaged or pickled files, missing keys, wrong shapes or types, NaN or infinite values, labels that
        are no classes.
    """
    parts, files = _read(path)
    train_u, train_y = parts["train"]
    inputs = as_inputs(train_u, f"{path} (train inputs)")
    labels = as_labels(train_y, len(inputs), f"{path} (train labels)")
    _check_bytes(train_u, f"{path} (train inputs)")
    if "test" not in parts:
        train, test = _split(labels, seed, path)
        inputs, test_inputs, labels, test_labels = inputs[train], inputs[test], labels[train], labels[test]
    else:
        test_u, test_y = parts["test"]
        test_inputs = as_inputs(test_u, f"{path} (test inputs)")
        test_labels = as_labels(test_y, len(test_inputs), f"{path} (test labels)")
        if test_u.shape[1:] != train_u.shape[1:]:
            raise DataError(f"{path}: train samples have shape {train_u.shape[1:]}, test samples {test_u.shape[1:]}")
    low = min(float(inputs.min()), float(test_inputs.min()))
    high = max(float(inputs.max()), float(test_inputs.max()))
    return Dataset(
        name=str(path),
        train_inputs=inputs,
        train_labels=labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        input_shape=tuple(train_u.shape[1:]),
        classes=int(max(labels.max(), test_labels.max())) + 1,
        input_range=(0.0, 1.0) if low >= 0 and high <= 1 else (low, high),
        source=", ".join(file.name for file in files),
        hashes={file.name: "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def _read(path: Path) -> tuple[dict[str, tuple[Array, Array]], list[Path]]:
    """The arrays of every part that `path` holds, and the files they came from."""
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path}: expected a .npz file or a folder with {_LAYOUTS}")
        return _read_npz(path), [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    train, test, data = path / "train.npz", path / "test.npz", path / "data.npz"
    pair = [path / "inputs.npy", path / "labels.npy"]
    if train.is_file() and test.is_file():
        return {"train": _pair(train), "test": _pair(test)}, [train, test]
    if data.is_file():
        return _read_npz(data), [data]
    if all(file.is_file() for file in pair):
        return {"train": (_load_npy(pair[0]), _load_npy(pair[1]))}, pair
    raise DataError(f"{path}: no data here; expected {_LAYOUTS}")


def _read_npz(path: Path) -> dict[str, tuple[Array, Array]]:
    arrays = load_npz(path)
    for word in ("inputs", "images"):
        if {f"train_{word}", "train_labels", f"test_{word}", "test_labels"} <= arrays.keys():
            return {part: (arrays[f"{part}_{word}"], arrays[f"{part}_labels"]) for part in ("train", "test")}
    if {"inputs", "labels"} <= arrays.keys():
        return {"train": (arrays["inputs"], arrays["labels"])}
    raise DataError(
        f"{path}: has the keys {', '.join(sorted(arrays)) or 'none'}; expected inputs and labels, or train_inputs, "
        "train_labels, test_inputs and test_labels"
    )


def _check_bytes(array: Array, where: str) -> None:
    """Refuse images that hold bytes in another type, which are not divided by 255 then."""
    if array.ndim < 3 or array.dtype == np.uint8 or not 128 <= array.max() <= 255 or array.min() < 0:
        return
    if bool((array == np.floor(array)).all()):
        raise DataError(
            f"{where}: images of whole numbers from {array.min():g} to {array.max():g} in {array.dtype}, which no "
            "network takes that was trained on [0, 1]; save them as uint8 to have them divided by 255, or flattened, "
            "(m, p), if the network takes them as they are"
        )


def _pair(path: Path) -> tuple[Array, Array]:
    arrays = load_npz(path)
    missing = {"inputs", "labels"} - arrays.keys()
    if missing:
        raise DataError(f"{path}: no key {' and '.join(sorted(missing))}, has {', '.join(sorted(arrays)) or 'none'}")
    return arrays["inputs"], arrays["labels"]


def load_npz(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, without pickle; DataError where it is damaged or holds objects."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: one array, not an archive; save it with numpy.savez")
            return {key: archive[key] for key in archive.files}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _load_npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    return array


def _damaged(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error).lower():
        return DataError(
            f"{path}: not plain NumPy arrays (damaged, or of dtype object, which would need pickle); save numbers"
        )
    return DataError(f"{path}: damaged or truncated NumPy file ({error})")


def _split(labels: npt.NDArray[np.int64], seed: int, path: Path) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A stratified 80 : 20 split: one in five of every class, at random."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    chosen = [(members := order[labels[order] == c])[: len(members) // 5] for c in np.unique(labels)]
    test = np.sort(np.concatenate(chosen))
    if len(test) == 0:
        raise DataError(f"{path}: {len(labels)} samples are too few to split; give five of some class, or a test part")
    return np.setdiff1d(np.arange(len(labels)), test), test
