"""What has been found of maps while a graph is read, for operations that stand in it again and again.

A recurrent network multiplies by the same weight at every step, and picks the same numbers of the product: one map for
all steps, not one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import ref

from torch import Tensor

from simplicit.implicit import LinearMap

# What takes memory is held weakly.
_LARGE = (LinearMap, Tensor)
_Map = TypeVar("_Map", bound=LinearMap)
# What was found, by the identities of what it was found of. It is forgotten as soon as one of these is, whose identity
# may then be another's.
_Found = dict[Any, tuple[tuple[Any, ...], Any]]
_FOUND: ContextVar[_Found | None] = ContextVar("found", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Keep what :func:`once` finds until the end of the block, or until what it was found of is gone."""
    token = _FOUND.set({})
    try:
        yield
    finally:
        _FOUND.reset(token)


def once(make: Callable[..., _Map], *of: Any) -> _Map:
    """``make`` of these very objects, made once."""
    found = _FOUND.get()
    if found is None:
        return make(*of)
    key = (make, *map(id, of))
    if key in found:
        return found[key][1]  # type: ignore[no-any-return]
    result = make(*of)
    # What is its own result would be held by it.
    if not any(result is one for one in of):
        held = tuple(ref(one, lambda _: found.pop(key, None)) if isinstance(one, _LARGE) else one for one in of)
        found[key] = held, result
    return result
