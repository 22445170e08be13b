"""Data sets: inputs in a known range, integer labels, a fixed split, checked files.

``load_dataset("digits")`` needs nothing but scikit-learn; ``"fashion-mnist"`` reads (or downloads) the four published
files and checks their MD5 sums; a path reads the user's own arrays. Nothing here ever unpickles.
"""

from __future__ import annotations

from simplicit.data.dataset import Dataset
from simplicit.data.load import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "load_dataset"]
