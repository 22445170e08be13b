"""From a name or a path to a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from simplicit.checks import refused
from simplicit.data.arrays import load_arrays
from simplicit.data.cifar import load_cifar
from simplicit.data.dataset import Dataset
from simplicit.data.digits import load_digits
from simplicit.data.fashion_mnist import load_fashion_mnist
from simplicit.progress import phase

#: Every named data set with its loader, which is given the folder of data, or None. A new data set is one file and one
#: line here; or one that is added at run time, which :func:`load_dataset` and the command line know by name from then.
DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar-10": partial(load_cifar, "cifar-10"),
    "cifar-100": partial(load_cifar, "cifar-100"),
    "digits": lambda _: load_digits(),
    "fashion-mnist": load_fashion_mnist,
}


def load_dataset(
    name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None, seed: int = 0
) -> Dataset:
    """Load a data set by its name (a key of :data:`DATASETS`, and the result's name) or from the user's NumPy files.

    Parameters
    ----------
    name_or_path : str or path
        A name, or a folder or ``.npz`` file (the layouts are those of :mod:`simplicit.data.arrays`). A name wins over
        a path of that spelling.
    data_dir : str or path, optional
        Where to look for the files of a named data set; default: the environment variable ``SIMPLICIT_DATA``, else
        they are downloaded.
    seed : int
        Decides the split of the user's own data where it comes without one. Named data sets have a fixed split.

    Raises
    ------
    InputError
        `name_or_path` is neither a known name nor an existing path.
    DataError
        A file is missing, damaged or not what it should be.
    """
    name = os.fspath(name_or_path)
    with phase(f"reading {name}"):
        return _loaded(name, data_dir, seed)


def _loaded(name: str, data_dir: str | os.PathLike[str] | None, seed: int) -> Dataset:
    if name in DATASETS:
        return replace(DATASETS[name](Path(data_dir) if data_dir is not None else None), name=name)
    if not Path(name).exists():
        what = f"neither a known data set ({', '.join(sorted(DATASETS))}) nor an existing folder or .npz file"
        raise refused("data", what, repr(name))
    return load_arrays(Path(name), seed)
