"""Fashion-MNIST: the four published files, found or downloaded, MD5 checked, parsed without trust."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simplicit.data.dataset import Dataset
from simplicit.data.download import download, named_folder
from simplicit.errors import DataError

__all__ = ["FILES", "load_fashion_mnist"]

# The publisher's address and sums, from the data set's own README (zalandoresearch/fashion-mnist).
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_UBYTE = 0x08  # IDX type code


def load_fashion_mnist(data_dir: Path | None = None) -> Dataset:
    """60,000 and 10,000 images of 28 x 28 pixels, divided by 255 into [0, 1]; 10 classes.

    Looks for the four ``.gz`` files in `data_dir`, else in the folder that the environment variable ``SIMPLICIT_DATA``
    names; there directly or in its subfolder ``fashion-mnist``. Where neither is set, pooch downloads them from the
    publisher into the user's cache. The MD5 sum is checked wherever a file came from.

    Raises
    ------
    DataError
        A file is missing, cannot be downloaded, has another MD5 sum, or is not a well-formed gzip or IDX file.
    """
    named = named_folder(data_dir)
    paths = _find(named) if named is not None else {name: _download(name, md5) for name, md5 in FILES.items()}
    arrays = {name: _read_idx(path, FILES[name]) for name, path in paths.items()}
    train_u, train_y, test_u, test_y = (arrays[name] for name in FILES)
    folder = next(iter(paths.values())).parent
    for images, labels, part in ((train_u, train_y, "train"), (test_u, test_y, "t10k")):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{folder}: the {part} files do not fit, {images.shape} images and {labels.shape} labels; "
                "download both again"
            )
    return Dataset(
        name="fashion-mnist",
        train_inputs=_scale(train_u),
        train_labels=train_y.astype(np.int64),
        test_inputs=_scale(test_u),
        test_labels=test_y.astype(np.int64),
        input_shape=tuple(train_u.shape[1:]),
        classes=10,
        source="zalandoresearch/fashion-mnist",
        hashes={name: f"md5:{digest}" for name, digest in FILES.items()},
    )


def _scale(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _find(folder: Path) -> dict[str, Path]:
    """The four files in `folder` or in its subfolder ``fashion-mnist``."""
    for place in (folder / "fashion-mnist", folder):
        paths = {name: place / name for name in FILES}
        missing = [name for name, path in paths.items() if not path.is_file()]
        if not missing:
            return paths
        if len(missing) < len(FILES):
            raise DataError(f"{place}: {', '.join(missing)} missing; copy the files there or leave --data-dir out")
    raise DataError(
        f"{folder}: no Fashion-MNIST here, nor in its subfolder fashion-mnist (looked for {next(iter(FILES))} and "
        "three more); name the right folder with --data-dir or SIMPLICIT_DATA, or leave both out to download"
    )


def _download(name: str, md5: str) -> Path:
    return download(ADDRESS + name, md5, data="fashion-mnist", by_hand="the four .gz files")


def _read_idx(path: Path, md5: str) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes: 0, 0, type, rank, then rank big-endian sizes, then the values."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path}: MD5 is {found}, the published file has {md5}; delete it and download it again")
    try:
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error}); download it again") from error
    rank = raw[3] if len(raw) >= 4 else 0
    if len(raw) < 4 + 4 * rank or raw[:2] != b"\0\0" or raw[2] != _UBYTE or rank == 0:
        raise DataError(f"{path}: not an IDX file of unsigned bytes; download it again")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape, dtype=object)):
        raise DataError(f"{path}: truncated, {values.size} values for the shape {shape}; download it again")
    return values.reshape(shape)
