"""CIFAR-10 and CIFAR-100: the published python layout, as a folder or as its archive, or the same images in ``.npz``.

The published batches are pickles. They are read by :mod:`simplicit.data.batches`, which can make nothing but numbers,
texts, lists, dictionaries and arrays of bytes, so that no code of theirs ever runs.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.data.arrays import load_npz
from simplicit.data.batches import read_batch
from simplicit.data.dataset import Dataset, as_labels
from simplicit.data.download import download, named_folder
from simplicit.errors import DataError

__all__ = ["LAYOUTS", "load_cifar10", "load_cifar100"]

_IMAGE = (3, 32, 32)
_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
Open = Callable[[str], bytes]


@dataclass(frozen=True)
class Layout:
    """How one of the two sets is published.

    ``md5`` is that of the archive, from the publisher's page; ``labels`` the key of the labels in a batch.
    """

    name: str
    classes: int
    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    labels: bytes

    @property
    def address(self) -> str:
        """Where the archive is published."""
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


LAYOUTS = {
    "cifar-10": Layout(
        name="cifar-10",
        classes=10,
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        labels=b"labels",
    ),
    "cifar-100": Layout(
        name="cifar-100",
        classes=100,
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        train=("train",),
        test="test",
        labels=b"fine_labels",
    ),
}


def load_cifar10(data_dir: Path | None = None) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 colour images, (3, 32, 32), divided by 255 into [0, 1]; 10 classes.

    Looks in `data_dir`, else in the folder that the environment variable ``SIMPLICIT_DATA`` names; there directly or in
    its subfolder ``cifar-10``, for the folder ``cifar-10-batches-py``, its archive ``cifar-10-python.tar.gz``, or one
    file ``cifar*.npz`` with the keys train_images, train_labels, test_images and test_labels, images (m, 32, 32, 3)
    uint8, which may hold any part of the set. Where neither is set, pooch downloads the archive into the user's cache.
    The MD5 sum of an archive is checked.

    Raises
    ------
    DataError
        Nothing there, a batch missing, damaged or of another form, a pickle with anything but arrays of bytes in it, an
        archive with another MD5 sum, or a download that fails.
    """
    return _load(LAYOUTS["cifar-10"], data_dir)


def load_cifar100(data_dir: Path | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine labels: as :func:`load_cifar10`, in ``cifar-100-python`` or its archive."""
    return _load(LAYOUTS["cifar-100"], data_dir)


def _load(layout: Layout, data_dir: Path | None) -> Dataset:
    named = named_folder(data_dir)
    if named is None:
        archive = download(layout.address, layout.md5, data=layout.name, by_hand=layout.archive)
        return _of_archive(layout, archive)
    for place in (named / layout.name, named):
        for folder in (place / layout.folder, place):
            if any((folder / name).is_file() for name in (*layout.train, layout.test)):
                return _of_folder(layout, folder)
        if (place / layout.archive).is_file():
            return _of_archive(layout, place / layout.archive)
        if files := _npz_files(layout, place):
            return _of_npz(layout, files)
    raise DataError(
        f"{named}: no {layout.name} here, nor in its subfolder {layout.name} (looked for {layout.folder}, "
        f"{layout.archive} and cifar*.npz); name the right folder with --data-dir or SIMPLICIT_DATA, or leave both out "
        "to download"
    )


def _npz_files(layout: Layout, place: Path) -> list[Path]:
    """Those of this set: of two names, the longer one holds the shorter one."""
    hundred = layout.name == "cifar-100"
    return [path for path in sorted(place.glob("cifar*.npz")) if ("100" in path.name) == hundred]


def _of_folder(layout: Layout, folder: Path) -> Dataset:
    missing = [name for name in (*layout.train, layout.test) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} missing; unpack {layout.archive} again")
    hashes: dict[str, str] = {}

    def opened(name: str) -> bytes:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror})") from error
        hashes[name] = "sha256:" + hashlib.sha256(content).hexdigest()
        return content

    return replace(_of_batches(layout, opened, str(folder)), hashes=hashes)


def _of_archive(layout: Layout, path: Path) -> Dataset:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if found != layout.md5:
        raise DataError(f"{path}: MD5 is {found}, the published file has {layout.md5}; delete it and download it again")
    try:
        with tarfile.open(path, "r:gz") as archive:  # members are read one by one, nothing is unpacked to the disc
            wanted = {f"{layout.folder}/{name}": name for name in (*layout.train, layout.test)}
            contents = {
                wanted[member.name]: (archive.extractfile(member) or io.BytesIO()).read()
                for member in archive
                if member.name in wanted
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated archive ({error}); download it again") from error
    missing = [name for name in wanted.values() if name not in contents]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing; download it again")
    return replace(_of_batches(layout, contents.__getitem__, str(path)), hashes={path.name: f"md5:{layout.md5}"})


def _of_batches(layout: Layout, opened: Open, where: str) -> Dataset:
    train = [_batch(layout, opened, name, where) for name in layout.train]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return _dataset(layout, (images, labels), _batch(layout, opened, layout.test, where), layout.address)


def _batch(layout: Layout, opened: Open, name: str, where: str) -> Part:
    """Images (m, 3072) and labels (m,) of one batch: rows are red, green and blue planes already."""
    path = f"{where}/{name}"
    batch = read_batch(opened(name), path)
    data, labels = _entry(batch, b"data", path), _entry(batch, layout.labels, path)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or not len(data):
        got = data.shape if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: data must be bytes of shape (m, 3072), got {got}; download the set again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: {layout.labels.decode()} must be a list of integers; download the set again")
    return data, _checked(np.array(labels, dtype=np.int64), len(data), layout, path)


def _entry(batch: Mapping[Any, Any], key: bytes, path: str) -> Any:
    if key not in batch:
        has = ", ".join(sorted(str(name, "latin1") if isinstance(name, bytes) else str(name) for name in batch))
        raise DataError(f"{path}: no entry {key.decode()!r}, has {has or 'none'}; is it a batch of another set?")
    return batch[key]


def _checked(labels: npt.NDArray[Any], samples: int, layout: Layout, where: str) -> npt.NDArray[np.int64]:
    checked = as_labels(labels, samples, f"{where} (labels)")
    if checked.max(initial=0) >= layout.classes:
        first = int(np.argmax(checked >= layout.classes))
        raise DataError(
            f"{where}: label {first} is {checked[first]}, {layout.name} has the classes 0 to {layout.classes - 1}"
        )
    return checked


def _of_npz(layout: Layout, files: list[Path]) -> Dataset:
    if len(files) > 1:
        raise DataError(f"{files[0].parent}: several of {', '.join(path.name for path in files)}; leave one there")
    (path,) = files
    arrays = load_npz(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise DataError(f"{path}: no key {', '.join(missing)}, has {', '.join(sorted(arrays)) or 'none'}")
    train, test = (_of_arrays(layout, arrays, part, path) for part in ("train", "test"))
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(_dataset(layout, train, test, f"{layout.name} in {path.name}"), hashes={path.name: digest})


def _of_arrays(layout: Layout, arrays: Mapping[str, npt.NDArray[Any]], part: str, path: Path) -> Part:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3) or not len(images):
        raise DataError(
            f"{path}: {part}_images must be uint8 of shape (m, 32, 32, 3), got {images.dtype} of shape {images.shape}"
        )
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    return planes, _checked(labels, len(images), layout, f"{path} ({part}_labels)")


def _dataset(layout: Layout, train: Part, test: Part, source: str) -> Dataset:
    return Dataset(
        name=layout.name,
        train_inputs=_scaled(train[0]),
        train_labels=train[1],
        test_inputs=_scaled(test[0]),
        test_labels=test[1],
        input_shape=_IMAGE,
        classes=layout.classes,
        source=source,
    )


def _scaled(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    inputs = images.astype(np.float32)
    inputs /= np.float32(255)  # in place: the whole set takes 0.6 GB
    return inputs
