r"""Interval images of operations that look numbers up at places, or put them there, and of the places themselves.

Places are integers between two ends. Of n numbers in intervals the k-th largest (from 0) may be the i-th where fewer
than k + 1 others are certainly larger and fewer than n - k certainly smaller. Where a place is known, so is the number
there; where it is not, what is looked up lies between the least and the greatest number along the dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.elementwise import Rule, ends_of, packet_of
from simplicit.implicit.groups.images.interval import Interval, Rounding, real

#: Numbers in the comparison of all places with all others.
_LARGEST = 2**24


def ends(argument: Any, end: str) -> Any:
    """Return arguments with one end in the place of each interval."""
    if isinstance(argument, Interval):
        return getattr(argument, end)
    if isinstance(argument, dict):
        return {name: ends(one, end) for name, one in argument.items()}
    return type(argument)(ends(one, end) for one in argument) if isinstance(argument, list | tuple) else argument


def places_of_ranks(z: Interval, dim: int, ranks: Tensor) -> Interval | None:
    """Return where along a dimension the numbers of some ranks, from the largest, may be, as a last dimension."""
    low, high = z.lower.movedim(dim, -1), z.upper.movedim(dim, -1)
    n = low.shape[-1]
    if low.numel() * (n + len(ranks)) > _LARGEST:
        return None
    larger = (low[..., None, :] > high[..., :, None]).sum(-1)
    smaller = (high[..., None, :] < low[..., :, None]).sum(-1)
    may = (larger[..., None, :] <= ranks[:, None]) & (smaller[..., None, :] <= n - 1 - ranks[:, None])
    place = torch.arange(n)
    return Interval(torch.where(may, place, n).amin(-1), torch.where(may, place, -1).amax(-1))


def _ranked(z: Interval, dim: int, ranks: Tensor) -> Interval | None:
    found = places_of_ranks(z, dim, ranks)
    return None if found is None else found.moved(lambda end: end.movedim(-1, dim))


def _with_places(at: Rounding, call: Rule, x: Any, dim: int, ranks: Tensor, *args: Any, **kwargs: Any) -> Any:
    z = real(x, at)
    values = Interval(call(z.lower, *args, **kwargs)[0], call(z.upper, *args, **kwargs)[0])
    found = _ranked(z, dim, ranks)
    if found is not None and found.lower.ndim > values.lower.ndim:
        found = found.moved(lambda end: end.squeeze(dim))
    return [values, found]


def _topk(at: Rounding, call: Rule, x: Any, k: int, dim: int = -1, largest: bool = True, ordered: bool = True) -> Any:
    n, ranks = real(x, at).lower.shape[dim], torch.arange(k)
    return _with_places(at, call, x, dim, ranks if largest else n - 1 - ranks, k, dim, largest, ordered)


def _sort(at: Rounding, call: Rule, x: Any, dim: int = -1, descending: bool = False) -> Any:
    ranks = torch.arange(real(x, at).lower.shape[dim])
    return _with_places(at, call, x, dim, ranks if descending else ranks.flip(0), dim, descending)


def _argsort(at: Rounding, call: Rule, x: Any, dim: int = -1, descending: bool = False) -> Any:
    z = real(x, at)
    ranks = torch.arange(z.lower.shape[dim])
    return _ranked(z, dim, ranks if descending else ranks.flip(0))


def _kthvalue(at: Rounding, call: Rule, x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    n = real(x, at).lower.shape[dim]
    return _with_places(at, call, x, dim, torch.tensor([n - k]), k, dim, keepdim)


def _median(at: Rounding, call: Rule, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    z = real(x, at)
    if dim is None:
        return z.moved(call)
    n = z.lower.shape[dim]
    return _with_places(at, call, x, dim, torch.tensor([n - 1 - (n - 1) // 2]), dim, keepdim)


def _extreme(at: Rounding, call: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
    """``max`` and ``min``: of two, of all, or along a dimension with places."""
    if args and isinstance(args[0], Interval | Tensor):
        first, second = real(x, at), real(args[0], at)
        return Interval(call(first.lower, second.lower), call(first.upper, second.upper))
    z = real(x, at)
    if not args:
        return z.moved(call)
    rank = 0 if packet_of(call) == "max" else z.lower.shape[args[0]] - 1
    return _with_places(at, call, x, args[0], torch.tensor([rank]), *args, **kwargs)


def _which(at: Rounding, call: Rule, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    z = real(x, at)
    if dim is None:
        return None
    rank = 0 if packet_of(call) == "argmax" else z.lower.shape[dim] - 1
    found = places_of_ranks(z, dim, torch.tensor([rank]))
    if found is None:
        return None
    return found.moved(lambda end: end.movedim(-1, dim) if keepdim else end.squeeze(-1))


def _sort_of(names: Any) -> bool:
    return isinstance(names, Interval) and not names.is_real and names.lower.dtype != torch.bool


def _looked_up(at: Rounding, call: Rule, x: Any, dim: int, index: Any, *args: Any, **kwargs: Any) -> Any:
    """``gather`` and ``index_select`` along a dimension, whose places may not be known."""
    if not _sort_of(index):
        return Interval(*(call(ends(x, end), dim, ends(index, end)) for end in ("lower", "upper")))
    z, known = real(x, at), index.lower == index.upper
    safe = index.lower.clamp(0, z.lower.shape[dim] - 1)
    low, high = (call(end, dim, safe) for end in (z.lower, z.upper))
    least, most = z.lower.amin(dim, keepdim=True), z.upper.amax(dim, keepdim=True)
    least, most = (call(end.expand(z.lower.shape), dim, torch.zeros_like(safe)) for end in (least, most))
    if packet_of(call) == "index_select":
        shape = [1] * z.lower.ndim
        shape[dim] = -1
        known = known.reshape(shape)
    return Interval(torch.where(known, low, least), torch.where(known, high, most))


def _taken_along(at: Rounding, call: Rule, x: Any, index: Any, dim: int | None = None) -> Any:
    return None if dim is None else _looked_up(at, torch.ops.aten.gather.default, x, dim, index)


def _scattered(at: Rounding, call: Rule, x: Any, dim: int, index: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Numbers put at places along a dimension, or added there; sums, maxima and the like never fall."""
    reduction = kwargs.get("reduce", args[0] if args else None)
    adds = packet_of(call) == "scatter_add" or reduction in ("add", "sum", "mean")
    if reduction in ("multiply", "prod"):
        return None
    z = real(x, at)
    given = real(source, at) if isinstance(source, Interval | Tensor) else source
    if not _sort_of(index):
        low, high = (call(ends(z, end), dim, index, ends(given, end), *args, **kwargs) for end in ("lower", "upper"))
        if not adds:
            return Interval(low, high)
        size = call(z.largest, dim, index, given.largest, *args, **kwargs) if isinstance(given, Interval) else 0.0
        return at.out(low, high, size, 32.0 + 2.0 * z.lower.shape[dim])
    if adds or reduction is not None:
        return None
    values = real(source, at)
    if values.lower.ndim:
        values = Interval(values.lower.amin(dim, keepdim=True), values.upper.amax(dim, keepdim=True))
    return _perhaps(z, values, call, dim, index, source, at)


def _perhaps(z: Interval, values: Interval, call: Rule, dim: int, index: Interval, source: Any, at: Rounding) -> Any:
    """What stays or is put where it is not known where: places that some number may go to hold either."""
    shape, dim = z.lower.shape, dim % z.lower.ndim
    pairs = enumerate(zip(shape, index.lower.shape, strict=True))
    if any(a != b for axis, (a, b) in pairs if axis != dim):
        return None
    place = torch.arange(shape[dim]).reshape([-1 if axis == dim else 1 for axis in range(len(shape))])
    low, high = torch.full(shape, False), torch.full(shape, False)
    for one in range(index.lower.shape[dim]):
        first, last = index.lower.narrow(dim, one, 1), index.upper.narrow(dim, one, 1)
        high = high | ((first <= place) & (place <= last))
        low = low | ((first == place) & (place == last))
    either = iv.hull(z, values)
    keep = torch.where(low, values.lower, torch.where(high, either.lower, z.lower))
    return Interval(keep, torch.where(low, values.upper, torch.where(high, either.upper, z.upper)))


def _put(at: Rounding, call: Rule, x: Any, indices: Any, source: Any, accumulate: bool = False) -> Any:
    """Numbers put at places, or added there; truth values in front are a choice."""
    z, given, first = real(x, at), real(source, at), indices[0] if len(indices) == 1 else None
    if any(_sort_of(one) for one in indices):
        if accumulate:
            return None
        return iv.hull(z, Interval(given.lower.amin(), given.upper.amax()))
    if isinstance(first, Interval):
        if accumulate or given.lower.numel() != 1:
            return None
        sure, possible = (end.reshape(*end.shape, *[1] * (z.lower.ndim - end.ndim)) for end in ends_of(first))
        either = iv.hull(z, given)
        lower = torch.where(sure, given.lower, torch.where(possible, either.lower, z.lower))
        return Interval(lower, torch.where(sure, given.upper, torch.where(possible, either.upper, z.upper)))
    low, high = (call(ends(z, end), indices, ends(given, end), accumulate) for end in ("lower", "upper"))
    if not accumulate:
        return Interval(low, high)
    size, count = call(z.largest, indices, given.largest, True), float(given.lower.numel())
    return at.out(low, high, size, 32.0 + 2.0 * count / max(1, z.lower.shape[0]))


def _index(at: Rounding, call: Rule, x: Any, indices: Any) -> Any:
    """x[i, j, …]: known, or between the least and the greatest number that one unknown place may mean."""
    unknown = [axis for axis, one in enumerate(indices) if isinstance(one, Interval)]
    if not unknown:
        low, high = (call(ends(x, end), indices) for end in ("lower", "upper"))
        return Interval(low, high)
    if len(unknown) > 1 or not _sort_of(indices[unknown[0]]):
        return None
    (axis,) = unknown
    z, index = real(x, at), indices[axis]
    n = z.lower.shape[axis]
    known = index.lower == index.upper
    safe = [index.lower.clamp(0, n - 1) if one == axis else place for one, place in enumerate(indices)]
    low, high = (call(end, safe) for end in (z.lower, z.upper))
    flat = [torch.zeros_like(one) if number == axis else one for number, one in enumerate(safe)]
    least = call(z.lower.amin(axis, keepdim=True).expand(z.lower.shape), flat)
    most = call(z.upper.amax(axis, keepdim=True).expand(z.upper.shape), flat)
    return Interval(low, high) if bool(known.all()) else Interval(torch.minimum(low, least), torch.maximum(high, most))


def _one_hot(at: Rounding, call: Rule, x: Any, classes: int = -1) -> Any:
    if not isinstance(x, Interval) or classes < 0:
        return None
    place, first, last = torch.arange(classes), x.lower[..., None], x.upper[..., None]
    certainly = (first == place) & (last == place)
    return Interval(certainly.long(), ((first <= place) & (place <= last)).long())


def _bucket(at: Rounding, call: Rule, x: Any, *rest: Any, **named: Any) -> Any:
    """How many bounds lie below: it never falls."""
    if packet_of(call) == "searchsorted":
        return (
            None if isinstance(x, Interval) else real(rest[0], at).moved(lambda end: call(x, end, *rest[1:], **named))
        )
    return None if isinstance(rest[0], Interval) else real(x, at).moved(lambda end: call(end, *rest, **named))


#: One entry for each operation that gives or reads places.
PLACES: dict[str, Rule] = {
    "topk": _topk,
    "sort": _sort,
    "argsort": _argsort,
    "kthvalue": _kthvalue,
    **dict.fromkeys(("median", "nanmedian"), _median),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("argmax", "argmin"), _which),
    **dict.fromkeys(("gather", "index_select"), _looked_up),
    "take_along_dim": _taken_along,
    "index": _index,
    "index_put": _put,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), _scattered),
    "one_hot": _one_hot,
    **dict.fromkeys(("bucketize", "searchsorted"), _bucket),
}
