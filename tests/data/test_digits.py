"""The data set that comes with the package."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from simplicit.data import load_dataset


def test_digits_have_a_fixed_stratified_split() -> None:
    data, other_seed = load_dataset("digits"), load_dataset("digits", seed=5)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((1437, 64), (360, 64))
    assert (data.train_inputs.dtype, data.train_labels.dtype) == (np.float32, np.int64)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    assert np.ptp(np.bincount(data.test_labels)) <= 2
    np.testing.assert_array_equal(data.test_inputs, other_seed.test_inputs)
    assert data.hashes == other_seed.hashes


def test_they_are_those_of_scikit_learn() -> None:
    data = load_dataset("digits")
    pixels, labels = load_digits(return_X_y=True)
    inputs = (pixels / 16).astype(np.float32)
    parts = train_test_split(inputs, labels, test_size=0.2, random_state=0, stratify=labels)
    for ours, theirs in zip(
        (data.train_inputs, data.test_inputs, data.train_labels, data.test_labels), parts, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_description_is_plain() -> None:
    facts = load_dataset("digits").describe()
    assert facts["train_samples"] == 1437
    assert facts["input_shape"] == [8, 8]
    assert facts["hashes"] == {
        "train": "sha256:42529fb6a655e9c0e927267b21dd34017f645ff8bec67608d3acae3702ef36eb",
        "test": "sha256:53d6a8c3d406e86d40aad5acd3374f1eed5131e403fad9d446ab12bfde56ba18",
    }
