"""The embedded data set: 8 x 8 handwritten digits of scikit-learn, no download."""

from __future__ import annotations

import hashlib

import numpy as np

from simplicit.data.dataset import Dataset

__all__ = ["load_digits"]

_SPLIT_SEED = 0  # the split belongs to the data set: results of different seeds must share their test samples


def load_digits() -> Dataset:
    """1,797 digits, 64 pixels divided by 16 into [0, 1]; a fixed stratified split of 1,437 and 360."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = sklearn_digits(return_X_y=True)
    inputs = (pixels / 16.0).astype(np.float32)
    train_u, test_u, train_y, test_y = train_test_split(
        inputs, labels.astype(np.int64), test_size=0.2, random_state=_SPLIT_SEED, stratify=labels
    )
    return Dataset(
        name="digits",
        train_inputs=train_u,
        train_labels=train_y,
        test_inputs=test_u,
        test_labels=test_y,
        input_shape=(8, 8),
        classes=10,
        source="scikit-learn, load_digits",
        hashes={
            "train": "sha256:" + hashlib.sha256(train_u.tobytes()).hexdigest(),
            "test": "sha256:" + hashlib.sha256(test_u.tobytes()).hexdigest(),
        },
    )
