"""What an implicit model is made from, checked: groups, blocks, biases and shapes; every function raises InputError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from simplicit.checks import as_array, as_count
from simplicit.errors import InputError
from simplicit.implicit.assembly import Blocks
from simplicit.implicit.groups import INPUT, OUTPUT, Activation, StateGroup
from simplicit.implicit.maps import Csr, LinearMap
from simplicit.implicit.maps.sparse import float_for


def check_fit(parts: Mapping[str, Csr], expected: Mapping[str, tuple[int, int]]) -> None:
    """Refuse matrices whose shapes do not make one model."""
    for name, shape in expected.items():
        if parts[name].shape != shape:
            got = ", ".join(f"{key} {part.shape}" for key, part in parts.items())
            found = f"must have shape {shape} to fit A (n, n), B (n, p), C (q, n), D (q, p); got {got}"
            raise InputError(f"{name} {found}", argument=name)


def checked_groups(groups: Sequence[StateGroup]) -> tuple[StateGroup, ...]:
    """The groups, with unique names and positive sizes."""
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise InputError(f"groups must be a sequence of StateGroup, got {groups!r:.80}", argument="groups")
    seen: set[str] = set()
    for place, group in enumerate(groups):
        if not isinstance(group, StateGroup):
            found = f"got {group!r:.80} at {place}"
            raise InputError(f"groups must hold StateGroup(name, size, activation), {found}", argument="groups")
        group.check()
        if group.name in seen:
            raise InputError(f"groups must have unique names, got {group.name!r} twice", argument="groups")
        seen.add(group.name)
    return tuple(groups)


def checked_shape(shape: tuple[int, ...] | None, size: int, name: str, size_name: str) -> tuple[int, ...]:
    """The form of one sample, of ``size`` numbers; flat for None."""
    if shape is None:
        return (size,)
    if not isinstance(shape, Sequence | torch.Size) or isinstance(shape, str):
        raise InputError(f"{name} must be a tuple of integers, got {shape!r:.80}", argument=name)
    checked = tuple(as_count(f"each entry of {name}", length) for length in shape)
    if math.prod(checked) != size:
        found = f"{checked} has {math.prod(checked)} entries, but {size_name} = {size}"
        raise InputError(f"{name} = {found}", argument=name)
    return checked


def check_blocks(blocks: Blocks, groups: Sequence[StateGroup], n_inputs: int, n_outputs: int) -> None:
    """Refuse blocks under unknown names or of other shapes."""
    if not isinstance(blocks, Mapping):
        raise InputError(f"blocks must map (row, column) to LinearMap, got {type(blocks).__name__}", argument="blocks")
    rows = {group.name: group.pre_size for group in groups} | {OUTPUT: n_outputs}
    columns = {group.name: group.size for group in groups} | {INPUT: n_inputs}
    for key, block in blocks.items():
        if not isinstance(key, tuple) or len(key) != 2 or key[0] not in rows or key[1] not in columns:
            raise InputError(
                f"block {key!r}: a key is (row, column), its row 'output' or a group, its column 'input' or a group; "
                f"groups are {', '.join(group.name for group in groups) or 'none'}"
            )
        if not isinstance(block, LinearMap):
            raise InputError(f"block {key} must be a LinearMap, got {type(block).__name__}; wrap a matrix in CsrMap")
        if block.shape != (shape := (rows[key[0]], columns[key[1]])):
            raise InputError(f"block {key} must have shape {shape}, got {block.shape}")


def common_dtype(blocks: Blocks, *biases: Any) -> np.dtype[Any]:
    """float64 as soon as one block is float64, else float32; biases decide only where there are no blocks."""
    dtypes = [block.dtype for block in blocks.values()] or [as_array("bias", b).dtype for b in biases if b is not None]
    return np.dtype(np.float32 if all(float_for(dtype) == np.float32 for dtype in dtypes) else np.float64)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """``dtype``, which has to be float32 or float64."""
    try:
        wanted: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted is None or wanted not in (np.float32, np.float64):
        found = repr(dtype) if wanted is None else wanted
        raise InputError(f"dtype must be float32 or float64, got {found}", argument="dtype")
    return wanted


def checked_bias(bias: ArrayLike | None, length: int, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A finite, read-only vector of ``dtype``; zeros for None."""
    with np.errstate(over="ignore"):  # refused below
        values = np.zeros(length, dtype) if bias is None else np.array(as_array(name, bias), dtype=dtype)
    if values.shape != (length,):
        raise InputError(f"{name} must have shape ({length},), got {values.shape}", argument=name)
    finite = np.isfinite(values)
    if not finite.all():
        place = int(np.argmin(finite))
        raise InputError(f"{name} must be finite in {dtype}, got {values[place]} at position {place}", argument=name)
    values.flags.writeable = False
    return values


def groups_of(activation: object, n_states: int) -> tuple[StateGroup, ...]:
    """The groups that an argument ``activation`` means."""
    if isinstance(activation, str | Activation):
        common = Activation(activation) if isinstance(activation, str) else activation
        return (StateGroup("state", n_states, common),) if n_states else ()
    if isinstance(activation, Sequence):
        groups = tuple(group for group in activation if isinstance(group, StateGroup))
        if len(groups) == len(activation):
            return groups
    raise InputError(
        "activation must be one name or Activation for all states, or a sequence of StateGroup(name, size, "
        f"activation), got {activation!r:.80}",
        argument="activation",
    )
