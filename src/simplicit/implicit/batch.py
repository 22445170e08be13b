"""Batches of inputs: checked, flattened and cast on the way in; of the caller's kind on the way out."""

from __future__ import annotations

import cmath
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError

Batch: TypeAlias = NDArray[Any] | Tensor

#: Samples are worked through in chunks of about this many numbers: small enough to stay near the processor's caches,
#: large enough for GEMM.
CHUNK_NUMBERS = 2**21


def as_batch(U: Batch, width: int, shape: tuple[int, ...] | None, dtype: np.dtype[Any], name: str = "U") -> Tensor:
    """``U``, (m, width) or (m, *shape), as a tensor (m, width) of ``dtype`` on the CPU, outside autograd.

    Memory is shared where it can be. InputError is raised where ``U`` does not hold real and finite
    numbers, has another shape or no samples, or is sparse or masked.
    """
    tensor = _real_tensor(U, name)
    got, allowed = tuple(tensor.shape), dict.fromkeys(((width,), shape or (width,)))
    if len(got) < 2 or got[1:] not in allowed:
        forms = " or ".join(f"(m, {', '.join(map(str, form))})" for form in allowed)
        hint = _layout_hint(got[1:], shape, name)
        raise InputError(f"{name} must have shape {forms}, samples first, got {got}{hint}", argument=name)
    if got[0] < 1:
        raise InputError(f"{name} must hold at least one sample, got shape {got}", argument=name)
    batch = tensor.reshape(got[0], width).to(TORCH_DTYPES[np.dtype(dtype)])
    if (row := _not_finite(batch)) is not None:
        found = f"got NaN or infinite values in sample {row}"
        raise InputError(f"{name} must be finite in {dtype}, {found}", argument=name)
    return batch


def _layout_hint(got: tuple[int, ...], shape: tuple[int, ...] | None, name: str) -> str:
    """What to do where channels stand last and should stand first, or the other way round."""
    if shape is None or len(shape) < 2 or len(got) != len(shape):
        return ""
    if got == (*shape[1:], shape[0]):
        return f"; channels stand last there: use np.moveaxis({name}, -1, 1)"
    if got == (shape[-1], *shape[:-1]):
        return f"; channels stand first there: use np.moveaxis({name}, 1, -1)"
    return ""


#: torch's name of a dtype.
TORCH_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def _real_tensor(values: Batch, name: str) -> Tensor:
    if isinstance(values, Tensor) and values.layout == torch.strided and not (values.is_meta or values.is_quantized):
        tensor = values.detach().to("cpu")
        if tensor.is_complex():
            raise InputError(f"{name} must hold real numbers, got dtype {tensor.dtype}", argument=name)
        return tensor
    array = as_array(name, values)
    if array.dtype.itemsize > 8 or (array.dtype.kind == "u" and array.dtype.itemsize > 1):
        array = array.astype(np.float64)
    # torch warns of arrays that are read-only and refuses negative strides and foreign byte orders.
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, dtype=native, requirements=["C", "W"]))


def check_range(values: Tensor, what: str, first: int = 0) -> None:
    """Refuse, naming the sample, ``values`` (m, k) for samples ``first`` and following that overflowed."""
    if (row := _not_finite(values)) is not None:
        raise InputError(
            f"the {what} of sample {first + row} leave the range of {values.dtype}; scale the inputs or the model "
            "down, or use float64"
        )


def is_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor an infinity among ``values``."""
    # A sum is several times faster than a test of every entry, and finite only if all entries are.
    return cmath.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _not_finite(values: Tensor) -> int | None:
    """The first row of ``values`` (m, k) with a NaN or an infinity; None where there is none."""
    if is_finite(values):
        return None
    finite = torch.isfinite(values).all(dim=1)
    return None if finite.all() else int(finite.to(torch.uint8).argmin())


def like(result: Tensor, given: Batch) -> Any:
    """``result`` as a NumPy array if ``given`` is not a tensor, else as a tensor on the device of ``given``."""
    return result.to(given.device) if isinstance(given, Tensor) else result.numpy()


def chunks(samples: int, width: int, numbers: int = CHUNK_NUMBERS) -> Iterator[slice]:
    """Cut ``samples`` rows of ``width`` numbers into slices of so many ``numbers`` at most, but at least one row."""
    step = max(1, numbers // max(1, width))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))
