"""Functions of images, by names alone."""

from enum import Enum
from typing import Any


class InterpolationMode(Enum):
    """How images are resized."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def __getattr__(name: str) -> Any:
    """A function for every name, which refuses."""
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(name)
