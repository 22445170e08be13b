"""CIFAR's pickles: dictionaries with an array of bytes, read without running any code of theirs.

Unpickling calls whatever functions a file names. Here a file may name four, those by which NumPy's arrays are pickled,
and even these are not NumPy's own but stand-ins that can make an array of bytes and nothing else; any other name is
refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle

import numpy as np
import numpy.typing as npt

from simplicit.data.sources import reading
from simplicit.errors import DataError


class _RefusedError(Exception):
    """A pickle names or holds something that no batch has."""


def read_batch(content: bytes, what: str) -> dict[str, object]:
    """The dictionary of a batch, its keys decoded, its other texts as bytes, its arrays as ``uint8``.

    DataError, which begins with ``what``, is raised where the pickle names anything but arrays, is damaged or
    truncated, or holds no dictionary.
    """
    with reading(what, "batch", "download the set again"):
        try:
            batch = _Reader(io.BytesIO(content), encoding="bytes").load()
            if not isinstance(batch, dict):
                raise _RefusedError(f"holds a {type(batch).__name__}, not the dictionary of a batch")
            return {
                key.decode("latin1") if isinstance(key, bytes) else str(key): (
                    value.array() if isinstance(value, _Array) else value
                )
                for key, value in batch.items()
            }
        except _RefusedError as error:
            raise DataError(f"{what}: {error}; download the set from its publisher again") from None


class _Array:
    """The stand-in for an array takes the state that NumPy's would, and makes bytes of it."""

    def __init__(self) -> None:
        self._state: object = None

    def __setstate__(self, state: object) -> None:
        self._state = state

    def array(self) -> npt.NDArray[np.uint8]:
        """An array with the shape and the bytes of the state."""
        match self._state:
            case (_, tuple(shape), _Dtype(code=b"u1" | "u1"), by_columns, bytes(raw)) if not by_columns:
                pass
            case _:
                raise _RefusedError("holds an array of something else than bytes in C order")
        if not all(type(length) is int and length >= 0 for length in shape) or len(raw) != math.prod(shape):
            raise _RefusedError(f"holds an array of shape {shape} with {len(raw)} bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _Dtype:
    """The stand-in for a dtype keeps its name."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields: bytes have neither."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _ndarray(*_: object) -> None:
    raise _RefusedError("calls numpy.ndarray, which no batch does")


def _encode(text: object, encoding: object = None) -> bytes:
    """The bytes that Python 3 writes as text in Python 2's protocol."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _RefusedError("encodes something else than bytes")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the stand-ins and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise _RefusedError(f"a pickle that names {module}.{name}, which could run code, so it is refused")
        return _STAND_INS[module, name]
