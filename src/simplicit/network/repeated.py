"""What has been found of maps while a graph is read, for operations that stand in it again and again.

A recurrent network multiplies by the same weight at every step, and picks the same numbers of the product: one map for
all steps, not one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from simplicit.implicit import LinearMap

_Map = TypeVar("_Map", bound=LinearMap)
# What was found, by the identities of what it was found of, and that itself, so that no identity is taken twice.
_Found = dict[Any, tuple[tuple[Any, ...], Any]]
_FOUND: ContextVar[_Found | None] = ContextVar("found", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Keep what :func:`once` finds until the end of the block."""
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
    if key not in found:
        found[key] = of, make(*of)
    result: _Map = found[key][1]
    return result
