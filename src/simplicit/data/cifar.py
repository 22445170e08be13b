"""CIFAR-10 and CIFAR-100: the published python layout, as a folder or as its archive, or the same images in ``.npz``.

The published batches are pickles. They are read by :mod:`simplicit.data.cifar_pickle`, which can make nothing but
numbers, texts, lists, dictionaries and arrays of bytes, so that no code of theirs ever runs.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.data.arrays import load_numpy
from simplicit.data.cifar_pickle import read_batch
from simplicit.data.dataset import Array, Dataset, as_labels
from simplicit.data.sources import candidate_folders, check_md5, download, not_found, reading, select
from simplicit.errors import DataError
from simplicit.files import file_hash

_PUBLISHER = "https://www.cs.toronto.edu/~kriz/"
_IMAGE = (3, 32, 32)
Part = tuple[Array, Array]
#: The classes of CIFAR-10, by their labels.
_TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Layout:
    """How one of the two sets is published: files with the key ``labels`` in a folder in an archive of that MD5 sum.

    ``names`` are those of the classes, where they are few.
    """

    name: str
    classes: int
    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    labels: str
    names: tuple[str, ...] = ()

    @property
    def batches(self) -> tuple[str, ...]:
        """All files in the folder, that of the test part last."""
        return (*self.train, self.test)

    def dataset(self, train: Part, test: Part, source: str, hashes: Mapping[str, str]) -> Dataset:
        """The set of these images and labels."""
        facts: dict[str, Any] = {"classes": self.classes, "class_names": self.names}
        return Dataset.from_images(self.name, train, test, source=source, hashes=hashes, **facts)


LAYOUTS = {
    "cifar-10": Layout(
        name="cifar-10",
        classes=10,
        names=_TEN,
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        labels="labels",
    ),
    "cifar-100": Layout(
        name="cifar-100",
        classes=100,
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        train=("train",),
        test="test",
        labels="fine_labels",
    ),
}


def load_cifar(name: str, data_dir: Path | None = None) -> Dataset:
    """Load 50,000 and 10,000 colour images, (3, 32, 32), divided by 255 into [0, 1], with the 10 or 100 fine classes.

    They are looked for as :func:`~simplicit.data.sources.candidate_folders` says: as the folder that is published, its
    archive, whose MD5 sum is checked, or one file ``cifar*.npz`` with the keys train_images, train_labels, test_images
    and test_labels, images (m, 32, 32, 3) uint8, which may hold any part of the set.
    """
    layout, places = LAYOUTS[name], candidate_folders(data_dir, name)
    if not places:
        address = _PUBLISHER + layout.archive
        return _from_archive(layout, download(address, layout.md5, name=name, by_hand=layout.archive))
    for place in places:
        for folder in (place / layout.folder, place):
            if any((folder / batch).is_file() for batch in layout.batches):
                return _from_folder(layout, folder)
        if (place / layout.archive).is_file():
            return _from_archive(layout, place / layout.archive)
        found = sorted(place.glob("cifar*.npz"))
        if files := [path for path in found if ("100" in path.name) == (layout.classes == 100)]:
            return _from_npz(layout, files)
    raise not_found(places[-1], name, f"{layout.folder}, {layout.archive} and cifar*.npz")


def _from_folder(layout: Layout, folder: Path) -> Dataset:
    if missing := [name for name in layout.batches if not (folder / name).is_file()]:
        raise DataError(f"{folder}: {', '.join(missing)} missing; unpack {layout.archive} again")
    hashes = {name: file_hash(folder / name) for name in layout.batches}
    return _from_batches(layout, {name: (folder / name).read_bytes() for name in hashes}, folder, hashes)


def _from_archive(layout: Layout, path: Path) -> Dataset:
    check_md5(path, layout.md5)
    contents: dict[str, bytes] = {}
    with reading(path, "archive", "download it again"), tarfile.open(path, "r:gz") as archive:
        for member in archive:  # one by one: nothing is unpacked to the disk
            folder, _, name = member.name.rpartition("/")
            if folder == layout.folder and name in layout.batches and (file := archive.extractfile(member)):
                contents[name] = file.read()
    if missing := [name for name in layout.batches if name not in contents]:
        raise DataError(f"{path}: {', '.join(missing)} missing; download it again")
    return _from_batches(layout, contents, path, {path.name: f"md5:{layout.md5}"})


def _from_batches(layout: Layout, contents: Mapping[str, bytes], where: Path, hashes: Mapping[str, str]) -> Dataset:
    *parts, test = (_batch(layout, contents[name], f"{where}/{name}") for name in layout.batches)
    train = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    source = _PUBLISHER + layout.archive
    return Dataset.from_images(
        layout.name, train, test, classes=layout.classes, source=source, hashes=hashes, class_names=layout.names
    )


def _batch(layout: Layout, content: bytes, path: str) -> Part:
    """Images (m, 3, 32, 32) and labels (m,) of one batch, whose rows are red, green and blue planes already."""
    data, labels = select(read_batch(content, path), ("data", layout.labels), path)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or not len(data):
        got = data.shape if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: data must be bytes of shape (m, 3072), got {got}; download the set again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: {layout.labels} must be a list of integers; download the set again")
    images = data.reshape(-1, *_IMAGE)
    return images, as_labels(np.array(labels), len(images), f"{path} (labels)", classes=layout.classes)


def _from_npz(layout: Layout, files: list[Path]) -> Dataset:
    if len(files) > 1:
        raise DataError(f"{files[0].parent}: several of {', '.join(path.name for path in files)}; leave one there")
    (path,) = files
    arrays = load_numpy(path)
    parts: list[Part] = []
    for part in ("train", "test"):
        images, labels = select(arrays, (f"{part}_images", f"{part}_labels"), path)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3) or not len(images):
            got = f"{images.dtype} of shape {images.shape}"
            raise DataError(f"{path}: {part}_images must be uint8 of shape (m, 32, 32, 3), got {got}")
        labels = as_labels(labels, len(images), f"{path} ({part}_labels)", classes=layout.classes)
        parts.append((images.transpose(0, 3, 1, 2), labels))
    source, hashes = f"{layout.name} in {path.name}", {path.name: file_hash(path)}
    return Dataset.from_images(
        layout.name, *parts, classes=layout.classes, source=source, hashes=hashes, class_names=layout.names
    )
