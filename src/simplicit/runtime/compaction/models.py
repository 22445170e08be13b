r"""Compaction of an implicit model x = φ(A x + B u + b), y = C x + D u + d.

A state varies where a row of [A, B] has an entry for an input, or for a state that varies; else it is a constant c. It
is read where a row of C, or that of a state that is read and varies, has an entry for it. States that vary and are read
are kept, with those that the form of a block keeps beside them; of the others constants go into biases,
b' = b + A_gone c and d' = d + C_gone c. A group with a block is kept as a whole, or goes. Inputs are kept, also those
that no row reads: they are columns without entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, StateGroup
from simplicit.implicit.groups import INPUT, OUTPUT, Activation
from simplicit.runtime.compaction.maps import Mask, restricted, whole

#: For each group, or the input or output, a mask.
Masks = dict[str, Mask]


def compact_model(model: ImplicitModel) -> ImplicitModel:
    """A model's smaller one with the same outputs; of a model with nothing to remove, itself."""
    varies = _varying(model)
    constants = _constants(model, varies)
    if constants is None:  # at no input are all states numbers, so that nothing is folded
        varies = {name: np.ones_like(mask) for name, mask in varies.items()}
        constants = {name: np.zeros(mask.size) for name, mask in varies.items()}
    kept = _kept(model, varies, _read(model, varies))
    if all(kept[group.name].all() for group in model.groups):
        return model
    groups = [
        replace(group, size=int(kept[group.name].sum())) for group in model.groups if bool(kept[group.name].any())
    ]
    names = {INPUT, OUTPUT, *(group.name for group in groups)}
    rows = {group.name: _rows(group, kept[group.name]) for group in model.groups}
    rows[OUTPUT] = np.ones(model.n_outputs, dtype=bool)
    gone = {name: np.where(kept[name], 0.0, constants[name]) for name in constants}
    biases = _biases(model, gone)
    return ImplicitModel(
        groups,
        {
            (row, column): restricted(block, rows[row], kept[column])
            for (row, column), block in model.blocks.items()
            if row in names and column in names
        },
        n_inputs=model.n_inputs,
        n_outputs=model.n_outputs,
        state_bias=np.concatenate([np.zeros(0, model.dtype), *(biases[one.name][rows[one.name]] for one in groups)]),
        output_bias=biases[OUTPUT],
        input_shape=model.input_shape if model.inputs is None else None,
        output_shape=model.output_shape,
        inputs=model.inputs,
    ).astype(model.dtype)


def _elementwise(group: StateGroup) -> bool:
    return isinstance(group.activation, Activation)


def _rows(group: StateGroup, kept: Mask) -> Mask:
    """The pre-activations that a group keeps with its states."""
    return kept if _elementwise(group) else np.full(group.pre_size, bool(kept.any()))


def _varying(model: ImplicitModel) -> Masks:
    """The states that vary with the inputs."""
    varies = {group.name: np.zeros(group.size, dtype=bool) for group in model.groups}
    varies[INPUT] = np.ones(model.n_inputs, dtype=bool)
    groups = {group.name: group for group in model.groups}
    patterns = {key: block.absolute() for key, block in model.blocks.items() if key[0] != OUTPUT}
    left = {INPUT, *varies}
    while left:
        changed: set[str] = set()
        for (row, column), block in patterns.items():
            if column not in left | changed or not varies[column].any():
                continue
            found = _positive(block.apply(_pattern(varies[column], block.dtype)))
            mask = found if _elementwise(groups[row]) else np.full(groups[row].size, bool(found.any()))
            if (mask & ~varies[row]).any():
                varies[row] = varies[row] | mask
                changed.add(row)
        left = changed
    return varies


def _read(model: ImplicitModel, varies: Mapping[str, Mask]) -> Masks:
    """The states that the outputs depend on, through states that vary."""
    groups = {group.name: group for group in model.groups}
    read = {name: np.zeros(mask.size, dtype=bool) for name, mask in varies.items()}
    rows = {OUTPUT: np.ones(model.n_outputs, dtype=bool)}
    patterns = {key: block.absolute() for key, block in model.blocks.items() if key[1] != INPUT}
    left = {OUTPUT}
    while left:
        changed: set[str] = set()
        for (row, column), block in reversed(patterns.items()):
            if row not in left | changed or not rows[row].any():
                continue
            found = _positive(block.apply_transpose(_pattern(rows[row], block.dtype)))
            if (found & ~read[column]).any():
                read[column] = read[column] | found
                rows[column] = _rows(groups[column], read[column] & varies[column])
                changed.add(column)
        left = changed
    return read


def _kept(model: ImplicitModel, varies: Mapping[str, Mask], read: Mapping[str, Mask]) -> Masks:
    """The states that stay: all that are read and vary, and what the form of blocks keeps with them."""
    kept = {name: varies[name] & read[name] for name in varies} | {INPUT: np.ones(model.n_inputs, dtype=bool)}
    groups = {group.name: group for group in model.groups}
    for name, group in groups.items():
        if not _elementwise(group):
            kept[name] = np.full(group.size, bool(kept[name].any()))
    changed = True
    while changed:
        changed = False
        for (row, column), block in model.blocks.items():
            ends = [(column, False)]
            if row != OUTPUT and _elementwise(groups[row]):
                ends.append((row, True))
            for name, rows in ends:
                mask = whole(block, kept[name], rows=rows)
                if name != INPUT and not _elementwise(groups[name]):
                    mask = np.full(mask.size, bool(mask.any()))
                if (mask & ~kept[name]).any():
                    kept[name], changed = kept[name] | mask, True
    return kept


def _constants(model: ImplicitModel, varies: Mapping[str, Mask]) -> dict[str, NDArray[np.float64]] | None:
    """The values of states that do not vary; None where the states are no numbers for inputs of zeros."""
    found = {name: np.zeros(mask.size) for name, mask in varies.items()}
    if all(varies[group.name].all() for group in model.groups):
        return found
    try:
        X = model.evaluate(torch.zeros(1, model.n_inputs, dtype=_dtype(model.dtype))).X
    except InputError:
        return None
    for name, place in model.slices.items():
        found[name] = np.where(varies[name], 0.0, X[0, place].numpy())
    return found


def _biases(model: ImplicitModel, gone: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The biases of all rows, with what constants that are gone add to them."""
    biases = {name: model.state_bias[place].astype(np.float64) for name, place in model.pre_slices.items()}
    biases[OUTPUT] = model.output_bias.astype(np.float64)
    for (row, column), block in model.blocks.items():
        if column != INPUT and gone[column].any():
            values = torch.from_numpy(gone[column].astype(np.float64))[None]
            biases[row] = biases[row] + block.astype(np.float64).apply(values)[0].numpy()
    return biases


def _pattern(mask: Mask, dtype: np.dtype[np.float64]) -> torch.Tensor:
    return torch.from_numpy(mask.astype(dtype))[None]


def _positive(values: torch.Tensor) -> Mask:
    found: Mask = (values[0] > 0).numpy()
    return found


def _dtype(dtype: np.dtype[np.float64]) -> torch.dtype:
    return torch.float32 if dtype == np.float32 else torch.float64
