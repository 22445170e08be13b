"""Data sets: inputs in a known range, integer labels, a fixed split, checked files.

``load_dataset("digits")`` comes with the package; ``"fashion-mnist"``, ``"cifar-10"`` and ``"cifar-100"`` read (or
download) the published files and check their MD5 sums; a path reads the user's own arrays. A loader that is added to
:data:`DATASETS` makes one more name. Nothing here runs code that a file carries, not even where the published files
are pickles.
"""

from __future__ import annotations

from simplicit.data.dataset import Dataset
from simplicit.data.load import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "load_dataset"]
