"""Transposed convolutions as linear maps, whose entries are never written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.maps.base import stored_parts
from simplicit.implicit.maps.convolution import ConvMap, Sizes
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.sparse import Csr, canonical_csr
from simplicit.implicit.maps.weighted import WeightedMap


class TransposedMap(WeightedMap, kind="transposed"):
    """The map Wᵀ of a convolution W, its ``core``, with whose values it shares its own."""

    _what = "a transposed convolution"

    def __init__(self, core: ConvMap) -> None:
        self.core, self.shape, self.dtype = core, core.shape[::-1], core.dtype
        self.weight, self.left, self.right = core.weight, core.right, core.left

    @property
    def output_shape(self) -> Sizes:
        """The shape of its results, channels first."""
        return self.core.input_shape

    def _folded(self, factors: NDArray[Any], side: str) -> NDArray[np.float64] | None:
        return self.core._folded(factors, "right" if side == "left" else "left")

    def with_weight(self, weight: NDArray[Any], **changes: Any) -> TransposedMap:
        sides = {"left": "right", "right": "left"}
        return TransposedMap(
            self.core.with_weight(weight, **{sides.get(name, name): changes[name] for name in changes})
        )

    @property
    def is_zero(self) -> bool:
        return self.core.is_zero

    @property
    def work(self) -> int:
        return self.core.work

    def _multiplied(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.core._multiplied_back(x, weight)

    def _multiplied_back(self, y: Tensor, weight: Tensor) -> Tensor:
        return self.core._multiplied(y, weight)

    def to_csr(self) -> Csr:
        return canonical_csr(self.core.to_csr().T)

    def to_stored(self) -> tuple[Entry, Arrays]:
        entries, arrays = stored_parts({"core": self.core})
        return {"kind": "transposed", **entries}, arrays

    @classmethod
    def from_stored(cls, stored: Stored) -> TransposedMap:
        entry = stored.entry["core"]
        size = math.prod(stored.part("core", entry, (0, 0)).counts("input_shape"))
        return cls(ConvMap.from_stored(stored.part("core", entry, (0, size))))
