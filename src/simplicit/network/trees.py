"""Arguments of operations: values in lists, tuples and mappings, as graphs have them.

torch's own functions for trees know many more kinds of containers, and take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def leaves(arguments: Any) -> Iterator[Any]:
    """The values in ``arguments``, in order; None is one."""
    if isinstance(arguments, tuple | list):
        for one in arguments:
            yield from leaves(one)
    elif isinstance(arguments, dict):
        for one in arguments.values():
            yield from leaves(one)
    else:
        yield arguments


def mapped(function: Callable[[Any], Any], arguments: Any) -> Any:
    """``arguments`` with ``function`` of each value in its place, in plain lists, tuples and dictionaries."""
    if isinstance(arguments, tuple):
        return tuple([mapped(function, one) for one in arguments])
    if isinstance(arguments, list):
        return [mapped(function, one) for one in arguments]
    if isinstance(arguments, dict):
        return {name: mapped(function, one) for name, one in arguments.items()}
    return function(arguments)


def exchanged(some: Sequence[Any], function: Callable[[Any], Any], arguments: Any) -> Any:
    """``arguments`` with ``function`` of those values that are one of ``some`` in their place."""
    known = {id(one) for one in some}
    return mapped(lambda leaf: function(leaf) if id(leaf) in known else leaf, arguments)


def contains(kinds: type | tuple[type, ...], arguments: Any) -> bool:
    """Whether an instance of ``kinds`` occurs anywhere in ``arguments``."""
    return any(isinstance(leaf, kinds) for leaf in leaves(arguments))
