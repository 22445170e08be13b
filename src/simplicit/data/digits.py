"""The digits that come with the package: 1,797 images of 8 x 8 pixels.

They are the test part of *Optical Recognition of Handwritten Digits* by E. Alpaydin and C. Kaynak (UCI Machine Learning
Repository, 1998, https://archive.ics.uci.edu/dataset/80), as scikit-learn distributes it, under the Creative Commons
Attribution 4.0 International licence (CC BY 4.0). ``digits.npz`` holds the images and labels unchanged, as bytes, in
the two parts and the order that scikit-learn's ``train_test_split(..., test_size=0.2, random_state=0,
stratify=labels)`` drew.
"""

from __future__ import annotations

from pathlib import Path

from simplicit.data.arrays import load_numpy
from simplicit.data.dataset import Dataset

_LARGEST = 16  # a pixel counts the ink in 4 x 4 places of the scanned form


def load_digits() -> Dataset:
    """Load 1,437 and 360 images of 8 x 8 pixels, divided by 16 into [0, 1]; 10 classes, stratified.

    The split belongs to the data set: results of different seeds must share their test samples.
    """
    arrays = load_numpy(Path(__file__).with_name("digits.npz"))
    train, test = ((arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    source = "UCI, Optical Recognition of Handwritten Digits"
    names = tuple(map(str, range(10)))
    return Dataset.from_images("digits", train, test, classes=10, largest=_LARGEST, source=source, class_names=names)
