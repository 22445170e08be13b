"""CIFAR's batches: pickles of a dictionary with an array of bytes, read without running any code of theirs.

Unpickling calls whatever functions a file names. Here a file may name four, those by which NumPy's arrays are pickled,
and even these are not NumPy's own but stand-ins that can make an array of bytes and nothing else; any other name is
refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from simplicit.errors import DataError

__all__ = ["read_batch"]


class _RefusedError(Exception):
    """A pickle names or holds something that no batch has."""


def read_batch(content: bytes, where: str) -> dict[Any, Any]:
    """The dictionary of a batch, its texts as bytes, its arrays as ``uint8``.

    Raises
    ------
    DataError
        The pickle names anything but arrays, is damaged or truncated, or holds no dictionary; ``where`` is named.
    """
    try:
        batch = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise _RefusedError(f"holds a {type(batch).__name__}, not the dictionary of a batch")
        return {key: value.array() if isinstance(value, _Array) else value for key, value in batch.items()}
    except _RefusedError as error:
        raise DataError(f"{where}: {error}; download the set from its publisher again") from None
    except Exception as error:  # a damaged pickle may fail in any way
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(f"{where}: damaged or truncated batch ({reason}); download the set again") from error


class _Array:
    """Stands for an array: takes the state that NumPy's would, and makes bytes of it."""

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Shape and bytes as the state has them."""
        state = self._state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise _RefusedError("holds an array of a form that no batch has")
        _, shape, dtype, by_columns, raw = state
        fits = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
        if not fits or not isinstance(raw, bytes) or dtype.code not in (b"u1", "u1") or by_columns:
            raise _RefusedError("holds an array of something else than bytes in C order")
        if len(raw) != math.prod(shape):
            raise _RefusedError(f"holds an array of shape {shape} with {len(raw)} bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _Dtype:
    """Stands for a dtype, of which only the name counts."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: bytes have neither."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _ndarray(*_: Any) -> None:
    raise _RefusedError("calls numpy.ndarray, which no batch does")


def _encode(text: Any, encoding: Any = None) -> bytes:
    """How Python 3 writes bytes in Python 2's protocol."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _RefusedError("encodes something else than bytes")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    """Knows the stand-ins and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise _RefusedError(f"a pickle that names {module}.{name}, which could run code, so it is refused")
        return _STAND_INS[module, name]
