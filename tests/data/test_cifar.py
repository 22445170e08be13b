"""CIFAR in its three layouts, small files of the published form; pickles that carry code; damage of every kind."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simplicit.data import cifar, load_dataset
from simplicit.data.cifar_pickle import read_batch
from simplicit.errors import DataError

REAL = Path(os.environ.get("SIMPLICIT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
needs_files = pytest.mark.skipif(not (REAL / "cifar-10").is_dir(), reason=f"no CIFAR-10 in {REAL}")
SETS = ("cifar-10", "cifar-100")


def images(m: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (m, 3, 32, 32), dtype=np.uint8)


def python2_pickle(batch: dict[bytes, object]) -> bytes:
    """As Python 2 and its NumPy wrote the published files: protocol 2, texts and arrays as byte strings."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        fits = abs(value) < 2**31
        return (b"J" if fits else b"\x8a\x09") + value.to_bytes(4 if fits else 9, "little", signed=True)

    def packed(value: object) -> bytes:
        if isinstance(value, np.ndarray):
            dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
            dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
            empty = (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
            )
            shape = b"(" + b"".join(number(length) for length in value.shape) + b"t"
            return empty + b"(" + number(1) + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(packed(item) for item in value) + b"e"
        return number(value) if isinstance(value, int) else text(bytes(value))  # type: ignore[call-overload]

    return b"\x80\x02}(" + b"".join(text(key) + packed(value) for key, value in batch.items()) + b"u."


def batch(name: str, m: int, seed: int, key: str) -> dict[bytes, object]:
    labels = np.random.default_rng(seed).integers(0, 10, m).tolist()
    return {b"batch_label": name.encode(), key.encode(): labels, b"data": images(m, seed).reshape(m, -1)}


@pytest.fixture(params=SETS)
def layout(request: pytest.FixtureRequest) -> cifar.Layout:
    return cifar.LAYOUTS[request.param]


@pytest.fixture
def folder(layout: cifar.Layout, tmp_path: Path) -> Path:
    """The unpacked archive, small; returns the data folder."""
    place = tmp_path / layout.name / layout.folder
    place.mkdir(parents=True)
    for seed, name in enumerate((*layout.train, layout.test)):
        (place / name).write_bytes(python2_pickle(batch(name, 3 + seed, seed, layout.labels)))
    return tmp_path


def packed(folder: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch, *, without: str = "") -> Path:
    """The archive of that folder in place of it, its sum taken for the published one."""
    place = folder / layout.name
    with tarfile.open(place / layout.archive, "w:gz") as archive:
        for path in sorted((place / layout.folder).iterdir()):
            if path.name != without:
                archive.add(path, f"{layout.folder}/{path.name}")
            path.unlink()
    (place / layout.folder).rmdir()
    publish(place / layout.archive, layout, monkeypatch)
    return place / layout.archive


def publish(path: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar.LAYOUTS, layout.name, replace(layout, md5=digest))


@pytest.mark.parametrize("inner", ["", "name", "folder"])
def test_a_folder_of_batches(folder: Path, layout: cifar.Layout, inner: str) -> None:
    place = {"": folder, "name": folder / layout.name, "folder": folder / layout.name / layout.folder}[inner]
    data = load_dataset(layout.name, place)
    count = len(layout.train)
    expected = np.concatenate([images(3 + seed, seed).reshape(-1, 3072) for seed in range(count)])
    np.testing.assert_array_equal(data.train_inputs, expected.astype(np.float32) / np.float32(255))
    labels = [batch("some", 3 + seed, seed, "labels")[b"labels"] for seed in range(count + 1)]
    np.testing.assert_array_equal(data.train_labels, np.concatenate(labels[:-1]))
    np.testing.assert_array_equal(data.test_labels, labels[-1])
    assert (data.input_shape, data.classes, data.input_range) == ((3, 32, 32), layout.classes, (0.0, 1.0))
    assert data.train_inputs.dtype == np.float32
    assert set(data.hashes) == {*layout.train, layout.test}


def test_the_archive_gives_what_the_folder_gives(
    folder: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_dataset(layout.name, folder)
    path = packed(folder, layout, monkeypatch)
    data = load_dataset(layout.name, folder)
    np.testing.assert_array_equal(data.train_inputs, before.train_inputs)
    np.testing.assert_array_equal(data.test_labels, before.test_labels)
    assert data.source == before.source
    assert list(data.hashes) == [path.name]
    monkeypatch.setenv("SIMPLICIT_DATA", str(folder))
    assert len(load_dataset(layout.name).test_labels) == len(data.test_labels)


def test_wrong_sum_and_truncated_archive(folder: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(folder, layout, monkeypatch)
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match=r"MD5 is .*, the published file has .*download it again"):
        load_dataset(layout.name, folder)
    path.write_bytes(whole[: len(whole) // 2])
    publish(path, layout, monkeypatch)
    with pytest.raises(DataError, match="damaged or truncated archive"):
        load_dataset(layout.name, folder)
    path.write_bytes(b"no archive")
    publish(path, layout, monkeypatch)
    with pytest.raises(DataError, match="damaged or truncated archive"):
        load_dataset(layout.name, folder)


def test_a_missing_batch_is_named(folder: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(folder, layout, monkeypatch, without=layout.test)
    with pytest.raises(DataError, match=rf"tar\.gz: {layout.test} missing"):
        load_dataset(layout.name, folder)
    path.unlink()
    place = folder / layout.name / layout.folder
    place.mkdir()
    (place / layout.train[0]).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{layout.test} missing; unpack {layout.archive}"):
        load_dataset(layout.name, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"data": np.zeros((3, 3071), np.uint8)}, r"data must be bytes of shape \(m, 3072\), got \(3, 3071\)"),
        ({b"data": [1, 2]}, "data must be bytes of shape"),
        ({b"labels": [1, 2]}, r"labels must have shape \(3,\)"),
        ({b"labels": [1, 2, 11]}, "label 2 is 11; labels must be integers from 0 to 9"),
        ({b"labels": [1, 2, -1]}, "label 2 is -1"),
        ({b"labels": [1, 2, 2**70]}, "labels must be integers from 0 to 9"),
        ({b"labels": b"abc"}, "labels must be a list of integers"),
    ],
)
def test_wrong_contents(tmp_path: Path, changes: dict[bytes, object], message: str) -> None:
    layout = cifar.LAYOUTS["cifar-10"]
    for seed, name in enumerate((*layout.train, layout.test)):
        whole = batch(name, 3, seed, layout.labels)
        (tmp_path / name).write_bytes(python2_pickle(whole | (changes if name == "data_batch_4" else {})))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("cifar-10", tmp_path)
    assert "data_batch_4" in str(caught.value)


def test_a_batch_of_the_other_set(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(python2_pickle(batch(name, 3, 0, "labels")))
    with pytest.raises(DataError, match=r"train: no key fine_labels, has batch_label, data, labels"):
        load_dataset("cifar-100", tmp_path)


def test_python_3_writes_batches_too() -> None:
    """Protocol 2 of Python 3 writes bytes by ``_codecs.encode``, and NumPy's functions under their new names."""
    whole = batch("some", 4, 0, "labels")
    read = read_batch(pickle.dumps(whole, protocol=2), "here")
    np.testing.assert_array_equal(read["data"], whole[b"data"])
    assert read["labels"] == whole[b"labels"]


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return io.open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    evil = batch("some", 3, 0, "labels") | {b"filenames": Payload(tmp_path / "ran")}
    with pytest.raises(DataError, match=r"here: a pickle that names _?io.open, which could run code"):
        read_batch(pickle.dumps(evil, protocol=protocol), "here")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy\nndarray\n((K\x01ttR.",
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__reduce__\x94\x93.",
    ],
)
def test_names_beside_those_of_arrays_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="here: "):
        read_batch(content, "here")


def test_arrays_of_other_things_are_refused() -> None:
    for array in (np.zeros(3), np.array([object], dtype=object), np.asfortranarray(images(2, 0)[0, 0])):
        with pytest.raises(DataError, match="here: "):
            read_batch(pickle.dumps({b"data": array}, protocol=2), "here")
    forged = python2_pickle({b"data": images(1, 0).reshape(1, -1)}).replace(
        b"J" + (3072).to_bytes(4, "little"), b"J" + (2**31 - 1).to_bytes(4, "little")
    )
    with pytest.raises(DataError, match=r"an array of shape .* with 3072 bytes"):
        read_batch(forged, "here")


def test_truncated_batches() -> None:
    whole = python2_pickle(batch("some", 3, 0, "labels"))
    for length in (0, 1, 10, 100, len(whole) - 1):
        with pytest.raises(DataError, match="damaged or truncated"):
            read_batch(whole[:length], "here")
    with pytest.raises(DataError, match="holds a list"):
        read_batch(pickle.dumps([1], protocol=2), "here")


def npz(path: Path, **changes: np.ndarray) -> Path:
    arrays = {
        "train_images": images(5, 0).transpose(0, 2, 3, 1),
        "train_labels": np.arange(5, dtype=np.uint8),
        "test_images": images(2, 1).transpose(0, 2, 3, 1),
        "test_labels": np.arange(2, dtype=np.uint8),
    }
    np.savez(path, **(arrays | changes))
    return path


def test_npz_channels_last_comes_in_planes(tmp_path: Path) -> None:
    npz(tmp_path / "cifar10-part.npz")
    npz(tmp_path / "cifar100-part.npz", train_labels=np.array([99, 1, 2, 3, 4]))
    data = load_dataset("cifar-10", tmp_path)
    np.testing.assert_array_equal(data.train_inputs, images(5, 0).reshape(5, -1).astype(np.float32) / np.float32(255))
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert load_dataset("cifar-100", tmp_path).train_labels[0] == 99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": images(5, 0)}, r"train_images must be uint8 of shape \(m, 32, 32, 3\)"),
        ({"test_images": np.zeros((2, 32, 32, 3))}, "test_images must be uint8 .* got float64"),
        ({"test_labels": np.array([0, 10])}, r"test_labels\): label 1 is 10"),
        ({"train_labels": np.array(["a"] * 5, dtype=object)}, "pickle"),
    ],
)
def test_npz_of_another_form(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    npz(tmp_path / "cifar10.npz", **changes)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar-10", tmp_path)


def test_nothing_there_or_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no cifar-10 here, nor in its subfolder cifar-10.*--data-dir"):
        load_dataset("cifar-10", tmp_path)
    npz(tmp_path / "cifar-a.npz")
    npz(tmp_path / "cifar-b.npz")
    with pytest.raises(DataError, match=r"several of cifar-a.npz, cifar-b.npz"):
        load_dataset("cifar-10", tmp_path)
    np.savez(tmp_path / "cifar-a.npz", images=np.zeros(3))
    (tmp_path / "cifar-b.npz").unlink()
    with pytest.raises(DataError, match=r"no key train_images, .*has images"):
        load_dataset("cifar-10", tmp_path)


def test_download_asks_for_the_published_archive(
    folder: Path, layout: cifar.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    path = packed(folder, layout, monkeypatch)
    asked: dict[str, str] = {}

    def retrieve(*, url: str, known_hash: str, fname: str, path: Path) -> str:
        asked[url] = known_hash
        return str(folder / layout.name / fname)

    monkeypatch.delenv("SIMPLICIT_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load_dataset(layout.name).test_labels) == 3 + len(layout.train)
    assert asked == {
        f"https://www.cs.toronto.edu/~kriz/{path.name}": f"md5:{cifar.LAYOUTS[layout.name].md5}",
    }


def test_the_published_sums() -> None:
    assert {name: layout.md5 for name, layout in cifar.LAYOUTS.items()} == {
        "cifar-10": "c58f30108f718f92721af3b95e74349a",
        "cifar-100": "eb9058c3a382ffc7106e4002c42a8d85",
    }


@needs_files
def test_the_real_subset() -> None:
    data = load_dataset("cifar-10", REAL)
    assert data.train_inputs.shape == (4000, 3072)
    assert data.test_inputs.shape == (1000, 3072)
    assert data.train_labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert data.test_labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert 0.47 < data.train_inputs[:, :1024].mean() < 0.51  # red, over the whole set 0.491
    assert 0.42 < data.train_inputs[:, 2048:].mean() < 0.47  # blue, 0.447
