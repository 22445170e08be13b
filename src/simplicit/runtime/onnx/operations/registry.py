"""What an entry of the registry of operations is."""

from __future__ import annotations

from collections.abc import Callable

from simplicit.runtime.onnx.operations.calls import Call

#: Writes the nodes of a call, and returns the name of its result or the names of its results.
Entry = Callable[[Call], str | list[str]]


def alike(names: str, entry: Entry) -> dict[str, Entry]:
    """Return the registry of several operations, their names with spaces between, that are written alike."""
    return dict.fromkeys(names.split(), entry)
