r"""Interval images of programs: one rule for each operation, by its name in ``aten`` without overload.

A step whose operation has no rule, or whose rule does not know the arguments, gives None, *unknown*; so does every step
that uses it. A program whose result is unknown has the image (-∞, ∞).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images.elementwise import GATED, POINTWISE, TRUTHS, Rule
from simplicit.implicit.groups.images.interval import Interval, Rounding, real
from simplicit.implicit.groups.images.norms import NORMS
from simplicit.implicit.groups.images.places import PLACES, ends
from simplicit.implicit.groups.images.products import PRODUCTS
from simplicit.implicit.groups.images.reductions import REDUCTIONS
from simplicit.implicit.groups.images.special import SPECIAL
from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Step, Value, operation

#: They move numbers, wherever they stand.
_MOVING = frozenset(
    [
        "_unsafe_view",
        "alias",
        "cat",
        "channel_shuffle",
        "chunk",
        "clone",
        "concat",
        "concatenate",
        "detach",
        "diagonal",
        "expand",
        "expand_as",
        "flatten",
        "flip",
        "hstack",
        "movedim",
        "narrow",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "reshape",
        "roll",
        "rot90",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "swapaxes",
        "t",
        "tile",
        "transpose",
        "unbind",
        "unflatten",
        "unfold",
        "unsqueeze",
        "unsafe_chunk",
        "unsafe_split",
        "view",
        "view_as",
        "vstack",
        "dstack",
        "diag_embed",
        "im2col",
        "constant_pad_nd",
        "pad",
        "reflection_pad1d",
        "reflection_pad2d",
        "replication_pad1d",
        "replication_pad2d",
        "tril",
        "triu",
        "select_scatter",
        "slice_scatter",
        "contiguous",
        "resolve_conj",
        "resolve_neg",
        "lift_fresh_copy",
    ]
)
#: They move numbers to or from places that have to be known.
_INDEXED = frozenset(
    [
        "repeat_interleave",
        "index_copy",
        "index_fill",
        "masked_scatter",
        "masked_select",
    ]
)
#: What they give has the shape of an operand, not its numbers.
_SHAPED = frozenset(["zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "type_as", "fill"])


def _moved(at: Rounding, call: Rule, *args: Any, **kwargs: Any) -> Any:
    low, high = (call(*ends(args, end), **ends(kwargs, end)) for end in ("lower", "upper"))
    if isinstance(low, Tensor):
        return Interval(low, high)
    return [Interval(a, b) for a, b in zip(low, high, strict=True)]


def _indexed(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
    places = [one for one in _leaves((args, kwargs)) if isinstance(one, Interval) and not one.is_real]
    if places:
        return None
    return _moved(at, call, x, *args, **kwargs)


def _shaped(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
    return call(ends(x, "lower"), *args, **kwargs)


def _cast(at: Rounding, call: Rule, x: Any, dtype: Any = None, *_: Any, **named: Any) -> Any:
    kind = named.get("dtype", dtype)
    if isinstance(x, Tensor) and x.is_floating_point():
        x = real(x, at)
    if not isinstance(x, Interval) or not isinstance(kind, torch.dtype | None) or (kind and kind.is_complex):
        return None
    if kind is None or (kind.is_floating_point and x.is_real):
        return x if kind is None or kind == torch.float64 else at.out(x.lower, x.upper, ulps=2.0)
    if kind.is_floating_point:
        return real(x, at)
    if kind == torch.bool:
        return TRUTHS["ne"](at, call, x, 0.0)
    if not bool(torch.isfinite(real(x, at).largest).all()) or bool((real(x, at).largest > 2.0**53).any()):
        return None
    return x.moved(lambda end: end.to(kind))


def _embedding(at: Rounding, call: Rule, table: Any, ids: Any, *_: Any, **__: Any) -> Interval:
    """Rows of a table: those of known ids, and for others all that the table holds."""
    rows = real(table, at)
    if not isinstance(ids, Interval):
        return rows.moved(lambda end: end[ids])
    known = (ids.lower == ids.upper)[..., None]
    at_known = ids.lower.clamp(0, len(rows.lower) - 1)
    low, high = rows.lower.amin(dim=0), rows.upper.amax(dim=0)
    return Interval(torch.where(known, rows.lower[at_known], low), torch.where(known, rows.upper[at_known], high))


RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVING, _moved),
    **dict.fromkeys(_INDEXED, _indexed),
    **dict.fromkeys(_SHAPED, _shaped),
    **dict.fromkeys(("_to_copy", "to"), _cast),
    **POINTWISE,
    **GATED,
    **TRUTHS,
    **REDUCTIONS,
    **NORMS,
    **PRODUCTS,
    **PLACES,
    **SPECIAL,
    "embedding": _embedding,
}


def run(steps: Sequence[Step], values: list[Any], samples: int, dtype: torch.dtype) -> Interval | None:
    """Return the image of a program, for intervals of its operands and its constants in ``values``; None for none."""
    at = Rounding.of(dtype, *_kinds(steps))
    for step in steps:
        arguments = [_resolved(one, values, samples) for one in step.arguments]
        keywords = {name: _resolved(one, values, samples) for name, one in step.keywords}
        values.append(_image(at, step, arguments, keywords))
    last = values[-1]
    return last if isinstance(last, Interval) else real(last, at) if isinstance(last, Tensor) else None


def _image(at: Rounding, step: Step, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """Return what one step gives: intervals, tensors that are known, or None."""
    if step.packet == GETITEM and isinstance(arguments[0], list):
        return arguments[0][arguments[1]]
    if any(one is _UNKNOWN for one in _leaves((arguments, keywords))):
        return _UNKNOWN
    call, leaves = operation(step.operation), _leaves((arguments, keywords))
    if any(isinstance(one, Tensor) and one.is_complex() for one in leaves):
        return _UNKNOWN
    varying = [one for one in leaves if isinstance(one, Interval)]
    if step.packet in _CLIPPING and len(varying) == 1 and varying[0] is arguments[0] and _is_whole(arguments[0]):
        return _settled(arguments[0].moved(lambda end: call(end, *arguments[1:], **keywords)))
    fixed_real = any(isinstance(one, Tensor) and one.is_floating_point() for one in leaves)
    rule = RULES.get(step.packet)
    if not varying and not (fixed_real and rule is not None and step.packet not in _MOVING | _INDEXED):
        return _known(at, call(*arguments, **keywords), step.packet)
    if rule is None or (any(_is_whole(one) for one in varying) and step.packet not in _OF_WHOLE):
        return _UNKNOWN
    try:
        found = rule(at, call, *arguments, **keywords)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
        return _UNKNOWN  # arguments that the rule does not know
    return _settled(found)


class _Unknown:
    """What nothing is known of."""


_UNKNOWN = _Unknown()
# Operations that know what integers between two ends are.
_OF_WHOLE = (
    _MOVING
    | _SHAPED
    | PLACES.keys()
    | frozenset(("_to_copy", "to", "embedding", "lt", "le", "gt", "ge", "eq", "ne", "where", "add", "sub", "mul"))
)


# They never fall, of integers too.
_CLIPPING = frozenset(("hardtanh", "clamp", "clamp_min", "clamp_max", "relu"))


def _is_whole(x: Interval) -> bool:
    return not x.is_real and x.lower.dtype != torch.bool


def _settled(found: Any) -> Any:
    """Return a result with what is no result as unknown, and truth values and integers that are known as tensors."""
    if found is None:
        return _UNKNOWN
    if isinstance(found, list | tuple):
        return [_settled(one) for one in found]
    if isinstance(found, Interval) and not found.is_real and torch.equal(found.lower, found.upper):
        return found.lower
    return found


def _known(at: Rounding, found: Any, packet: str) -> Any:
    """Return what an operation made of constants: exact, but for the rounding of what it has computed."""
    if isinstance(found, list | tuple):
        return [_known(at, one, packet) for one in found]
    if isinstance(found, Tensor) and found.is_complex():
        return _UNKNOWN
    moved = packet in _MOVING or packet in _INDEXED or packet == GETITEM
    if moved or not isinstance(found, Tensor) or not found.is_floating_point():
        return found
    found = found.double()
    exact = bool((found.float().double() == found).all())
    return found if exact and packet in _MADE else at.out(found, found, ulps=64.0)


# They only write down numbers.
_MADE = frozenset(
    [
        "full",
        "full_like",
        "zeros",
        "zeros_like",
        "ones",
        "ones_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "arange",
        "eye",
    ]
)


def _resolved(argument: Any, values: Sequence[Any], samples: int) -> Any:
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, Samples):
        return argument.slope * samples + argument.offset
    if isinstance(argument, Kind):
        return argument.resolved(torch.float64)
    return [_resolved(one, values, samples) for one in argument] if isinstance(argument, tuple) else argument


def _leaves(argument: Any) -> list[Any]:
    if isinstance(argument, dict):
        argument = [*argument.values()]
    if isinstance(argument, list | tuple):
        return [leaf for one in argument for leaf in _leaves(one)]
    return [argument]


def _kinds(steps: Sequence[Step]) -> list[torch.dtype]:
    """Return the dtypes in floating point that a program names, in which it may compute."""
    arguments = [leaf for step in steps for leaf in _leaves([*step.arguments, *(v for _, v in step.keywords)])]
    found = [one.resolved(torch.float64) for one in arguments if isinstance(one, Kind)]
    return [dtype for dtype in found if dtype.is_floating_point]


def unbounded(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return (-∞, ∞) of a shape."""
    infinite = torch.full(shape, math.inf, dtype=torch.float64)
    return -infinite, infinite
