"""The user's own data: NumPy files, opened without pickle, every defect named.

These layouts are accepted:

==========================================  =================================================================
``train.npz`` and ``test.npz`` in a folder  each with the keys ``inputs`` and ``labels``
``data.npz`` in a folder, or one ``.npz``   ``train_inputs, train_labels, test_inputs, test_labels``, or ``inputs,
                                            labels`` (then split); ``images`` may stand for ``inputs``
``inputs.npy`` and ``labels.npy``           in a folder (then split)
==========================================  =================================================================

Data without a split of its own is split 80 : 20, stratified, by `seed`. ``uint8`` inputs are divided by 255. Where the
values then leave [0, 1], ``input_range`` is their smallest and largest value over both parts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from simplicit.data.dataset import Array, Dataset, as_inputs, as_labels
from simplicit.data.sources import reading, select
from simplicit.errors import DataError
from simplicit.files import file_hash

_LAYOUTS = "train.npz and test.npz, or data.npz, or inputs.npy and labels.npy"
_PAIR = ("inputs", "labels")
_PARTS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


def load_arrays(path: Path, seed: int = 0) -> Dataset:
    """Load a folder or one ``.npz`` file in one of the module's layouts; `seed` decides the split where there is none.

    DataError is raised where a file is missing, damaged or pickled, keys are missing, shapes or types are wrong, values
    are NaN or infinite, or labels are no classes.
    """
    arrays, files = _read(path)
    shape = arrays["train_inputs"].shape[1:]
    inputs, labels = _checked(arrays, "train", path)
    if "test_inputs" in arrays:
        test_inputs, test_labels = _checked(arrays, "test", path)
        if (other := arrays["test_inputs"].shape[1:]) != shape:
            raise DataError(f"{path}: train samples have shape {shape}, test samples {other}")
    else:
        train, test = _stratified_split(labels, seed, path)
        inputs, test_inputs, labels, test_labels = inputs[train], inputs[test], labels[train], labels[test]
    low = min(float(inputs.min()), float(test_inputs.min()))
    high = max(float(inputs.max()), float(test_inputs.max()))
    return Dataset(
        name=str(path),
        train_inputs=inputs,
        train_labels=labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        input_shape=shape,
        classes=int(max(labels.max(), test_labels.max())) + 1,
        input_range=(0.0, 1.0) if low >= 0 and high <= 1 else (low, high),
        source=", ".join(file.name for file in files),
        hashes={file.name: file_hash(file) for file in files},
    )


def _read(path: Path) -> tuple[dict[str, Array], list[Path]]:
    """The arrays that ``path`` holds, under names out of ``_PARTS``, and the files they came from."""
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path}: expected a .npz file or a folder with {_LAYOUTS}")
        return _read_npz(path), [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    parts, data, pair = [path / "train.npz", path / "test.npz"], path / "data.npz", [path / f"{n}.npy" for n in _PAIR]
    if all(file.is_file() for file in parts):
        arrays = [array for file in parts for array in select(load_numpy(file), _PAIR, file)]
        return dict(zip(_PARTS, arrays, strict=True)), parts
    if data.is_file():
        return _read_npz(data), [data]
    if all(file.is_file() for file in pair):
        arrays = [array for file in pair for array in select(load_numpy(file), [file.stem], file)]
        return dict(zip(_PARTS, arrays, strict=False)), pair
    raise DataError(f"{path}: no data here; expected {_LAYOUTS}")


def _read_npz(path: Path) -> dict[str, Array]:
    """The arrays of one file with both parts, or with all samples, which count as the train part then."""
    found = load_numpy(path)
    arrays = {key.replace("images", "inputs"): array for key, array in found.items()} | found
    if all(key in arrays for key in _PARTS):
        return {key: arrays[key] for key in _PARTS}
    if all(key in arrays for key in _PAIR):
        return {f"train_{key}": arrays[key] for key in _PAIR}
    raise DataError(
        f"{path}: has the keys {', '.join(sorted(found)) or 'none'}; expected inputs and labels, or train_inputs, "
        "train_labels, test_inputs and test_labels"
    )


def load_numpy(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, or that of an ``.npy`` file under the file's name without its ending.

    DataError is raised for a file that is damaged or of the other kind, or holds objects, which only pickle could read.
    """
    with reading(path, "NumPy file", "save it again"), path.open("rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray) and path.suffix != ".npy":
                raise DataError(f"{path}: one array, not an archive; save it with numpy.savez")
            return {path.stem: loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
        except ValueError as error:
            if "pickle" not in str(error).lower():
                raise
            raise DataError(  # NumPy advises to allow pickle, which would run the file's code
                f"{path}: not plain NumPy arrays (damaged, or of dtype object, which would need pickle); save numbers"
            ) from error


def _checked(arrays: dict[str, Array], part: str, path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Inputs (m, p) and labels (m,) of one part.

    Besides what :func:`as_inputs` and :func:`as_labels` refuse, images of bytes are refused in another type than uint8,
    for they would not be divided by 255.
    """
    raw, what = arrays[f"{part}_inputs"], f"{path} ({part} inputs)"
    inputs = as_inputs(raw, what)
    labels = as_labels(arrays[f"{part}_labels"], len(inputs), f"{path} ({part} labels)")
    bytelike = raw.ndim >= 3 and raw.dtype != np.uint8 and 128 <= inputs.max() <= 255 and inputs.min() >= 0
    if bytelike and bool((inputs == np.floor(inputs)).all()):
        raise DataError(
            f"{what}: images of whole numbers from {inputs.min():g} to {inputs.max():g} in {raw.dtype}, which no "
            "network takes that was trained on [0, 1]; save them as uint8 to have them divided by 255, or flattened, "
            "(m, p), if the network takes them as they are"
        )
    return inputs, labels


def _stratified_split(
    labels: npt.NDArray[np.int64], seed: int, path: Path
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The samples to train and to test on: one in five of every class, at random, is for the test."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    chosen = [(members := order[labels[order] == c])[: len(members) // 5] for c in np.unique(labels)]
    test = np.sort(np.concatenate(chosen))
    if len(test) == 0:
        raise DataError(f"{path}: {len(labels)} samples are too few to split; give five of some class, or a test part")
    return np.setdiff1d(np.arange(len(labels)), test), test
