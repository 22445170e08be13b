"""The embedded data set."""

from __future__ import annotations

import numpy as np

from simplicit.data import load_dataset


def test_digits_have_a_fixed_stratified_split() -> None:
    data, other_seed = load_dataset("digits"), load_dataset("digits", seed=5)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((1437, 64), (360, 64))
    assert (data.train_inputs.dtype, data.train_labels.dtype) == (np.float32, np.int64)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    assert np.ptp(np.bincount(data.test_labels)) <= 2
    np.testing.assert_array_equal(data.test_inputs, other_seed.test_inputs)
    assert data.hashes == other_seed.hashes


def test_description_is_plain() -> None:
    facts = load_dataset("digits").describe()
    assert facts["train_samples"] == 1437
    assert facts["input_shape"] == [8, 8]
    assert set(facts["hashes"]) == {"train", "test"}  # type: ignore[call-overload]
