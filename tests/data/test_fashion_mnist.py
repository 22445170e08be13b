"""Fashion-MNIST on the real files where they are, and damage of every kind on small files of the same layout."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from simplicit.data import fashion_mnist, load_dataset
from simplicit.errors import DataError

REAL = Path(os.environ.get("SIMPLICIT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = fashion_mnist.FILES
needs_files = pytest.mark.skipif(
    not (REAL / "fashion-mnist" / TRAIN_IMAGES).is_file(), reason=f"no Fashion-MNIST files in {REAL}"
)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">2xBB{array.ndim}I", 0x08, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files of the published layout, with the table of sums that belongs to them."""
    rng = np.random.default_rng(0)
    place = tmp_path / "fashion-mnist"
    place.mkdir()
    contents = {
        TRAIN_IMAGES: rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        TRAIN_LABELS: rng.integers(0, 10, 20, dtype=np.uint8),
        TEST_IMAGES: rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        TEST_LABELS: rng.integers(0, 10, 5, dtype=np.uint8),
    }
    for name, array in contents.items():
        replace(place / name, gzip.compress(idx(array)), monkeypatch)
    return tmp_path


def replace(path: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file and take its sum for the published one, so that what comes after the sum is tested."""
    path.write_bytes(packed)
    digest = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(fashion_mnist.FILES, path.name, digest)


@needs_files
def test_the_published_files() -> None:
    data = load_dataset("fashion-mnist", REAL)
    assert data.train_inputs.shape == (60000, 784)
    assert data.test_inputs.shape == (10000, 784)
    assert data.train_inputs.dtype == np.float32
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    assert data.train_labels[:6].tolist() == [9, 0, 0, 3, 0, 2]
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert (data.input_shape, data.classes, data.input_range) == ((28, 28), 10, (0.0, 1.0))


@pytest.mark.parametrize("direct", [True, False])
def test_found_in_the_folder_or_its_subfolder(folder: Path, direct: bool) -> None:
    data = load_dataset("fashion-mnist", folder / "fashion-mnist" if direct else folder)
    raw = gzip.decompress((folder / "fashion-mnist" / TEST_IMAGES).read_bytes())[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(5, 784) / 255
    np.testing.assert_allclose(data.test_inputs, expected, rtol=1e-6)
    assert data.hashes[TEST_IMAGES] == f"md5:{fashion_mnist.FILES[TEST_IMAGES]}"


def test_found_through_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLICIT_DATA", str(folder))
    assert len(load_dataset("fashion-mnist").train_labels) == 20


@pytest.mark.parametrize("name", list(fashion_mnist.FILES))
def test_wrong_sum_names_file_and_both_sums(folder: Path, name: str) -> None:
    path = folder / "fashion-mnist" / name
    path.write_bytes(path.read_bytes() + b"x")
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.raises(DataError) as caught:
        load_dataset("fashion-mnist", folder)
    for part in (str(path), found, fashion_mnist.FILES[name], "download"):
        assert part in str(caught.value)


def test_truncated_gzip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "fashion-mnist" / TRAIN_IMAGES
    replace(path, path.read_bytes()[:-100], monkeypatch)
    with pytest.raises(DataError, match=r"train-images.*damaged or truncated gzip"):
        load_dataset("fashion-mnist", folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01" + bytes(4), "not an IDX file"),
        (idx(np.zeros(20, np.uint8))[:-1], r"truncated, 19 values for the shape \(20,\)"),
        (idx(np.zeros(19, np.uint8)), r"labels must have shape \(20,\), one per sample, got \(19,\)"),
        (idx(np.full(20, 10, np.uint8)), "label 0 is 10; labels must be integers from 0 to 9"),
        (struct.pack(">2xBBI", 8, 1, 2**32 - 1) + bytes(8), "truncated, 8 values"),
    ],
)
def test_damaged_idx(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, message: str) -> None:
    replace(folder / "fashion-mnist" / TRAIN_LABELS, gzip.compress(raw), monkeypatch)
    with pytest.raises(DataError, match=message):
        load_dataset("fashion-mnist", folder)


def test_one_file_missing(folder: Path) -> None:
    (folder / "fashion-mnist" / TEST_LABELS).unlink()
    with pytest.raises(DataError, match=f"{TEST_LABELS} missing"):
        load_dataset("fashion-mnist", folder)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no fashion-mnist here.*--data-dir"):
        load_dataset("fashion-mnist", tmp_path)


def test_no_network_gives_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def fail(**_: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("SIMPLICIT_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(DataError, match=r"could not be downloaded .*no route to host.*--data-dir") as caught:
        load_dataset("fashion-mnist")
    assert "\n" not in str(caught.value)


def test_download_asks_for_the_published_sums(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    asked: dict[str, str] = {}

    def retrieve(*, url: str, known_hash: str, fname: str, path: Path) -> str:
        asked[url] = known_hash
        return str(folder / "fashion-mnist" / fname)

    monkeypatch.delenv("SIMPLICIT_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load_dataset("fashion-mnist").test_labels) == 5
    assert asked == {fashion_mnist.ADDRESS + name: f"md5:{digest}" for name, digest in fashion_mnist.FILES.items()}
