"""What was typed, which commands can ask for, and the one line that is said of an error in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Invocation:
    """What was typed: the command line, and the settings in it by their flat names."""

    command: list[str]
    given: Mapping[str, Any]


#: Of a function that is called from Python.
_NONE = Invocation([], {})
_INVOCATION: ContextVar[Invocation] = ContextVar("invocation", default=_NONE)


@contextmanager
def invoked(invocation: Invocation) -> Iterator[None]:
    """Within the block, :func:`invocation` is this one."""
    token = _INVOCATION.set(invocation)
    try:
        yield
    finally:
        _INVOCATION.reset(token)


def invocation() -> Invocation:
    """What was typed for the command that runs."""
    return _INVOCATION.get()


def complain(message: str) -> None:
    """One line on standard error, whatever line breaks the message has."""
    print("Error:", " ".join(message.split()), file=sys.stderr)
