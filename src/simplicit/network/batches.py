"""Inputs that come in batches, from a DataLoader or any other iterable, put together."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simplicit.errors import InputError
from simplicit.implicit.inputs import is_array
from simplicit.network.wrappers import unwrapped


def gathered(net: nn.Module, inputs: Any, argument: str) -> Any:
    """Inputs as one array, tuple or mapping: as they are, or the batches of an iterable, one after the other.

    A batch is an array, or a tuple, list or mapping of arrays, as the network takes it. A tuple or list may also hold
    one array more than the arguments of ``forward``, or be a pair of a mapping and an array, as a DataLoader over
    samples with labels gives them: labels, the last one, are left out.

    InputError is raised where it is not clear whether the last array is a label or an optional argument, where batches
    differ in form or shape, and where there are none.
    """
    if not _in_batches(inputs) or not isinstance(net, nn.Module):  # what is no network is refused when it is captured
        return inputs
    batches = [_without_labels(net, batch, argument) for batch in inputs]
    if not batches:
        raise InputError(f"{argument} must hold at least one batch, got none", argument=argument)
    first = batches[0]
    if isinstance(first, Mapping):
        same = all(isinstance(batch, Mapping) and batch.keys() == first.keys() for batch in batches)
        keys: list[Any] = [*first]
    else:
        same = all(isinstance(batch, tuple) and len(batch) == len(first) for batch in batches)
        keys = [*range(len(first))]
    if not same:
        raise InputError(f"{argument} must hold batches of one form, with the same arrays in each", argument=argument)
    joined = {key: _joined([batch[key] for batch in batches], argument) for key in keys}
    if isinstance(first, Mapping):
        return joined
    return joined[0] if len(joined) == 1 else tuple(joined.values())


def in_parts(net: nn.Module, inputs: Any, argument: str) -> Iterator[Any] | None:
    """The batches of an iterable, each as :func:`gathered` makes it of all of them; None where inputs are whole."""
    if not _in_batches(inputs) or not isinstance(net, nn.Module):
        return None
    return (gathered(net, iter([batch]), argument) for batch in inputs)


def first_batch(net: nn.Module, inputs: Any, argument: str) -> Any:
    """The first of some batches, where the form of the inputs is all that is asked for."""
    if not _in_batches(inputs):
        return inputs
    for batch in inputs:
        return gathered(net, iter([batch]), argument)
    raise InputError(f"{argument} must hold at least one batch, got none", argument=argument)


def _in_batches(inputs: Any) -> bool:
    return isinstance(inputs, Iterable) and not isinstance(inputs, np.ndarray | Tensor | tuple | list | Mapping | str)


def _without_labels(net: nn.Module, batch: Any, argument: str) -> Any:
    """One batch of inputs, as a tuple or a mapping."""
    if isinstance(batch, Mapping):
        return batch
    if not isinstance(batch, tuple | list):
        return (batch,)
    if len(batch) == 2 and isinstance(batch[0], Mapping):
        return batch[0]
    needed, most = _positional(net)
    count = len(batch)
    if needed <= count <= most and (count == needed or count == 1):
        return tuple(batch)
    if count == needed + 1 and count > most:
        return tuple(batch[:-1])
    takes = f"{needed}" if needed == most else f"{needed} or more"
    raise InputError(
        f"{argument} holds batches of {count} arrays, and net's forward takes {takes}: it is not clear which are "
        "inputs; give batches as mappings by name, such as ({'x': x} for x, _ in loader)",
        argument=argument,
    )


def _positional(net: nn.Module) -> tuple[int, float]:
    """How many arguments ``forward`` needs, and how many it takes."""
    parameters = inspect.signature(unwrapped(net).forward).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    endless = any(one.kind == one.VAR_POSITIONAL for one in parameters)
    needed = sum(one.default is one.empty for one in named)
    return max(needed, 1), float("inf") if endless else len(named)


def _joined(parts: list[Any], argument: str) -> Any:
    """Arrays one after the other; a constant, where it is the same in all batches."""
    first = parts[0]
    if not is_array(first):
        if any(is_array(part) or part != first for part in parts):
            raise InputError(
                f"{argument} must hold the same constants in every batch, got {first!r}", argument=argument
            )
        return first
    shapes = {tuple(part.shape[1:]) if is_array(part) and part.ndim else None for part in parts}
    if len(shapes) > 1 or None in shapes:
        found = " and ".join(map(str, sorted(shapes, key=str)))
        remedy = "pad or cut samples to one length"
        raise InputError(f"{argument} must hold samples of one shape, got {found}; {remedy}", argument=argument)
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([part.detach() for part in parts])
    return np.concatenate([np.asarray(part) for part in parts])
