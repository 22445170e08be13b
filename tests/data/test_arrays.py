"""The user's own arrays: every accepted layout, every defect named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simplicit.data import Dataset, load_dataset
from simplicit.errors import DataError, InputError

RNG = np.random.default_rng(1)
INPUTS = RNG.random((40, 2, 3)).astype(np.float32)
LABELS = np.arange(40) % 4


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_one_npz_with_a_split(tmp_path: Path) -> None:
    path = save(
        tmp_path / "data.npz",
        train_inputs=INPUTS[:30],
        train_labels=LABELS[:30],
        test_inputs=INPUTS[30:],
        test_labels=LABELS[30:],
    )
    for where in (path, tmp_path):
        data = load_dataset(where)
        np.testing.assert_array_equal(data.train_inputs, INPUTS[:30].reshape(30, 6))
        np.testing.assert_array_equal(data.test_labels, LABELS[30:])
        assert (data.input_shape, data.classes, data.input_range) == ((2, 3), 4, (0.0, 1.0))
        assert data.hashes["data.npz"].startswith("sha256:")


def test_two_npz(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", inputs=INPUTS, labels=LABELS)
    save(tmp_path / "test.npz", inputs=INPUTS[:5], labels=LABELS[:5])
    data = load_dataset(tmp_path)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((40, 6), (5, 6))


def check_split(data: Dataset) -> None:
    assert len(data.train_labels) + len(data.test_labels) == 40
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2, 2]
    together = np.concatenate([data.train_inputs, data.test_inputs])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(INPUTS.reshape(40, 6), axis=0))


def test_array_pair_is_split_by_seed(tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", INPUTS)
    np.save(tmp_path / "labels.npy", LABELS.astype(np.float64))
    data = load_dataset(tmp_path)
    check_split(data)
    again, other = load_dataset(tmp_path), load_dataset(tmp_path, seed=1)
    np.testing.assert_array_equal(data.test_inputs, again.test_inputs)
    assert not np.array_equal(data.test_inputs, other.test_inputs)


def test_npz_pair_is_split(tmp_path: Path) -> None:
    check_split(load_dataset(save(tmp_path / "mine.npz", inputs=INPUTS, labels=LABELS)))


def test_bytes_are_scaled_and_other_ranges_declared(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (40, 6), dtype=np.uint8)
    data = load_dataset(
        save(tmp_path / "u8.npz", train_images=images, train_labels=LABELS, test_images=images, test_labels=LABELS)
    )
    np.testing.assert_allclose(data.train_inputs, images / 255, rtol=1e-6)
    assert data.input_range == (0.0, 1.0)
    wide = load_dataset(save(tmp_path / "wide.npz", inputs=INPUTS * 4 - 2, labels=LABELS))
    low, high = wide.input_range
    assert low == pytest.approx(float((INPUTS * 4 - 2).min()))
    assert high == pytest.approx(float((INPUTS * 4 - 2).max()))


def with_value(value: float) -> np.ndarray:
    inputs = INPUTS.copy()
    inputs[7, 1, 2] = value
    return inputs


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (with_value(np.nan), LABELS, r"sample 7 has the value nan at place 5"),
        (with_value(np.inf), LABELS, r"sample 7 has the value inf at place 5"),
        (INPUTS.astype(np.float64) * 1e300, LABELS, r"sample 0 has the value"),
        (INPUTS.astype("U4"), LABELS, r"real numbers, got dtype <U4"),
        (INPUTS.astype(np.complex64), LABELS, r"real numbers, got dtype complex64"),
        (INPUTS[:, 0, 0], LABELS, r"at least one sample, got \(40,\)"),
        (INPUTS[:0], LABELS[:0], r"at least one sample, got \(0, 2, 3\)"),
        (INPUTS, LABELS[:-1], r"shape \(40,\), one per sample, got \(39,\)"),
        (INPUTS, LABELS[:, None], r"one per sample, got \(40, 1\)"),
        (INPUTS, LABELS - 1, r"label 0 is -1"),
        (INPUTS, LABELS + 0.5, r"label 0 is 0\.5"),
        (INPUTS, np.where(LABELS == 3, np.nan, LABELS), r"label 3 is nan"),
        (INPUTS, LABELS.astype("U1"), r"integers 0, 1, \.\.\., got dtype <U1"),
        (INPUTS[:4], np.arange(4), r"4 samples are too few to split"),
    ],
)
def test_bad_values(tmp_path: Path, inputs: np.ndarray, labels: np.ndarray, message: str) -> None:
    path = save(tmp_path / "bad.npz", inputs=inputs, labels=labels)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_of_different_shape(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", inputs=INPUTS, labels=LABELS)
    save(tmp_path / "test.npz", inputs=INPUTS.reshape(40, 3, 2), labels=LABELS)
    with pytest.raises(DataError, match=r"train samples have shape \(2, 3\), test samples \(3, 2\)"):
        load_dataset(tmp_path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, inputs=np.array([{}, []], dtype=object), labels=np.zeros(2))
    with pytest.raises(DataError, match="would need pickle"):
        load_dataset(path)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_truncated_npz(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "cut.npz", inputs=INPUTS, labels=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.npz"):
        load_dataset(path)


def test_truncated_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", INPUTS)
    np.save(tmp_path / "labels.npy", LABELS)
    path = tmp_path / "inputs.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"inputs\.npy: damaged or truncated"):
        load_dataset(tmp_path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has the keys x, y; expected inputs and labels"):
        load_dataset(save(tmp_path / "a.npz", x=INPUTS, y=LABELS))
    save(tmp_path / "train.npz", inputs=INPUTS)
    save(tmp_path / "test.npz", inputs=INPUTS, labels=LABELS)
    with pytest.raises(DataError, match=r"train\.npz: no key labels, has inputs"):
        load_dataset(tmp_path)


def test_folder_without_data_and_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data here; expected train\.npz"):
        load_dataset(tmp_path)
    other = tmp_path / "a.csv"
    other.write_text("1,2")
    with pytest.raises(DataError, match=r"a\.csv: expected a \.npz file"):
        load_dataset(other)


def test_unknown_name() -> None:
    with pytest.raises(
        InputError, match=r"'mnist': neither a known data set \(cifar-10, cifar-100, digits, fashion-mnist\)"
    ):
        load_dataset("mnist")


def test_single_array_under_the_wrong_suffix(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, INPUTS)
    with pytest.raises(DataError, match="one array, not an archive"):
        load_dataset(tmp_path / "one.npz")


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16"])
def test_bytes_of_images_in_another_type(tmp_path: Path, dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4))
    np.savez(tmp_path / "d.npz", inputs=pixels.astype(dtype), labels=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"whole numbers from \d+ to 25\d in .*save them as uint8 .*divided by 255"):
        load_dataset(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", inputs=pixels.reshape(20, -1).astype(dtype), labels=np.arange(20) % 2)
    assert load_dataset(tmp_path / "d.npz").train_inputs.max() > 200
    np.savez(tmp_path / "d.npz", inputs=pixels.astype("uint8"), labels=np.arange(20) % 2)
    assert load_dataset(tmp_path / "d.npz").train_inputs.max() <= 1
