"""Data sets that timm imports by name."""

from typing import Any


def __getattr__(name: str) -> Any:
    """A class for every name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
