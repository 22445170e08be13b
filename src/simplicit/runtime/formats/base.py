"""What a format is: which weights it holds, what it keeps of them, and the matrix that torch multiplies by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

#: The name of torch's own format, which every weight has and every dtype has products for.
DENSE = "dense"
#: All other formats by name, in the order in which they are tried.
FORMATS: dict[str, Format] = {}

Parts = Mapping[str, Tensor]


class Format(ABC):
    """A way to keep a matrix W (out, in). With the class argument ``name``, it is known by it."""

    name: ClassVar[str]
    #: The parts that it keeps, by the names that a ``state_dict`` has for them.
    parts: ClassVar[tuple[str, ...]]
    #: Whether torch takes gradients by the other factor through its products.
    has_gradients: ClassVar[bool] = True

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.name = name
        FORMATS[name] = cls()

    @abstractmethod
    def refusal(self, weight: Tensor) -> str | None:
        """Why it does not hold a weight, or cannot be fast with it; None where it is worth a measurement."""

    @abstractmethod
    def keep(self, weight: Tensor) -> dict[str, Tensor]:
        """The parts of a weight that it does not refuse."""

    @abstractmethod
    def matrix(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """What torch multiplies by, made of the parts; it may share their memory."""

    @abstractmethod
    def product(self, matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """Y = X Wᵀ + b, (m, out), for X (m, in)."""

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Whether torch has the product now, for a weight of a ``dtype`` that it may have been given since."""
        return True

    @abstractmethod
    def dense(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """The weight (out, in) as it was."""

    def defect(self, parts: Parts, shape: tuple[int, int]) -> str | None:
        """What is wrong with parts that come from a file; None where a product may read them."""
        return None
