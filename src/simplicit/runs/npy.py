"""Single arrays from ``.npy`` files: mapped into memory, never unpickled, every defect named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.errors import DataError

_MAGIC = b"\x93NUMPY"


def map_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, as a read-only memory map; an array without entries comes as it is.

    DataError is raised for a file that cannot be read, is no ``.npy`` file, is truncated, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            plain = file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a .npy file") from error
    if not plain:
        raise DataError(f"{path}: not a .npy file; write one array with numpy.save")
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        return _unmapped(path, error)
    return array


def _unmapped(path: Path, cause: Exception) -> npt.NDArray[Any]:
    """What cannot be mapped: an empty array can be read all the same, anything else is refused."""
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        if "pickle" in str(error).lower() or "python object" in str(cause).lower():
            raise DataError(f"{path}: holds Python objects, which would need pickle; save plain numbers") from error
        raise DataError(f"{path}: damaged or truncated .npy file ({cause})") from error
    return array
