"""Checks of arrays that come from outside, each with one clear error that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from simplicit.errors import InputError

__all__ = ["as_float_array", "check_finite"]


def as_float_array(name: str, value: Any, *, ndim: int | None = None) -> npt.NDArray[np.floating[Any]]:
    """``value`` as a floating-point NumPy array, not copied where it is one already.

    Parameters
    ----------
    name : str
        The argument, for the message.
    value : array, memory map or torch tensor, float32 or float64
    ndim : int, optional
        The number of dimensions that it must have.

    Raises
    ------
    InputError
        If it is no floating-point array, has another number of dimensions, or is empty.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{name}: expected float32 or float64 values, got {array.dtype}; convert with {name}.astype('float64')"
        )
    if ndim is not None and array.ndim != ndim:
        raise InputError(f"{name}: expected {ndim} dimensions, got shape {array.shape}")
    if not array.size:
        raise InputError(f"{name}: is empty, shape {array.shape}; give at least one entry in every dimension")
    return array


def check_finite(name: str, array: npt.NDArray[Any]) -> None:
    """Raise :class:`InputError` with the first offending index if ``array`` has a NaN or an infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = ", ".join(map(str, index))
        raise InputError(f"{name}: holds {array[index]} at index ({where}); remove or replace non-finite values first")
