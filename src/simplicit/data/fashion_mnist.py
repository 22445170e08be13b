"""Fashion-MNIST: the four published files, found or downloaded, MD5 checked, parsed without trust."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from simplicit.data.dataset import Array, Dataset, as_labels
from simplicit.data.sources import candidate_folders, check_md5, download, not_found, reading
from simplicit.errors import DataError
from simplicit.progress import counted

# The publisher's own repository, for the address of its README has no https; the sums are of that README.
ADDRESS = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_NAME = "fashion-mnist"
#: As the publisher lists them, by their labels.
CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_CLASSES = len(CLASS_NAMES)
_UBYTE = 0x08  # IDX type code


def load_fashion_mnist(data_dir: Path | None = None) -> Dataset:
    """Load 60,000 and 10,000 images of 28 x 28 pixels, divided by 255 into [0, 1]; 10 classes.

    The four ``.gz`` files are looked for as :func:`~simplicit.data.sources.candidate_folders` says; the MD5 sum is
    checked wherever a file came from.
    """
    paths = _find(data_dir)
    arrays = [_read_idx(path) for path in counted(paths, "files", len(paths))]
    return Dataset.from_images(
        _NAME,
        _part(paths[0], paths[1], arrays[0], arrays[1]),
        _part(paths[2], paths[3], arrays[2], arrays[3]),
        classes=_CLASSES,
        source="zalandoresearch/fashion-mnist",
        hashes={name: f"md5:{digest}" for name, digest in FILES.items()},
        class_names=CLASS_NAMES,
    )


def _find(data_dir: Path | None) -> list[Path]:
    """The paths of the four files, in the order of ``FILES``."""
    places = candidate_folders(data_dir, _NAME)
    if not places:
        return [download(ADDRESS + name, md5, name=_NAME, by_hand="the four .gz files") for name, md5 in FILES.items()]
    for place in places:
        missing = [name for name in FILES if not (place / name).is_file()]
        if not missing:
            return [place / name for name in FILES]
        if len(missing) < len(FILES):
            raise DataError(f"{place}: {', '.join(missing)} missing; copy the files there or leave --data-dir out")
    raise not_found(places[-1], _NAME, f"{next(iter(FILES))} and three more")


def _part(images_file: Path, labels_file: Path, images: Array, labels: Array) -> tuple[Array, Array]:
    """Images (m, 28, 28) and labels (m,) of two files, once they fit each other."""
    if images.ndim != 3 or not len(images):
        raise DataError(f"{images_file}: images must have shape (m, rows, columns), got {images.shape}")
    return images, as_labels(labels, len(images), str(labels_file), classes=_CLASSES)


def _read_idx(path: Path) -> Array:
    """The array of an IDX file of unsigned bytes: 0, 0, type, rank, then big-endian sizes, then the values."""
    check_md5(path, FILES[path.name])
    with reading(path, "gzip file", "download it again"):
        raw = gzip.decompress(path.read_bytes())
    rank = raw[3] if len(raw) >= 4 else 0
    if len(raw) < 4 + 4 * rank or raw[:2] != b"\0\0" or raw[2] != _UBYTE or rank == 0:
        raise DataError(f"{path}: not an IDX file of unsigned bytes; download it again")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape, dtype=object)):
        raise DataError(f"{path}: truncated, {values.size} values for the shape {shape}; download it again")
    return values.reshape(shape)
