"""Compressed rows (CSR), and compressed rows of square blocks (BSR), as MKL multiplies by them."""

from __future__ import annotations

import torch
from torch import Tensor

from simplicit.products import LARGEST_INDEX, blocks, compress, compressed, defect, has_product, product
from simplicit.runtime.formats.base import Format, Parts

# Measured in float32 on one core, 1,024 and 2,048 wide: with a quarter of the weights compressed rows still win by 1.5
# at 1 to 16 samples; with half of them they never did.
_MOST_DENSITY = 0.4
# Blocks win over single entries, by 1.3 to 1.7 from 100 samples on, where they are full: less than half of a block is
# slower than its entries are.
_LEAST_FILL = 0.6


class CompressedRows(Format, name="csr"):
    """Values, their columns in 32 bits, and where each row begins."""

    parts = ("rows", "columns", "values")

    def refusal(self, weight: Tensor) -> str | None:
        if (common := _refusal(weight)) is not None:
            return common
        share = _count(weight) / weight.numel()
        return None if share <= _MOST_DENSITY else f"{100 * share:.0f} % of the weights are not zero"

    def keep(self, weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.parts, compress(weight), strict=True))

    def matrix(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        return compressed(parts["rows"], parts["columns"], parts["values"], shape)

    def product(self, matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return product(matrix, x, bias)

    def multiplies(self, dtype: torch.dtype) -> bool:
        return has_product(dtype) and not torch.is_autocast_enabled("cpu")

    def dense(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        return self.matrix(parts, shape).to_dense()

    def defect(self, parts: Parts, shape: tuple[int, int]) -> str | None:
        return defect(parts["rows"], parts["columns"], parts["values"], shape)


class _Blocks(CompressedRows, name="bsr4"):
    """Square blocks of 4 that hold a weight."""

    has_gradients = False
    size = 4

    def refusal(self, weight: Tensor) -> str | None:
        if (other := super().refusal(weight)) is not None:
            return other
        if weight.shape[0] % self.size or weight.shape[1] % self.size:
            return f"its shape is no multiple of {self.size}"
        filled = int((blocks(weight, self.size) != 0).any(dim=3).any(dim=2).sum()) * self.size**2
        enough = _count(weight) >= _LEAST_FILL * filled
        return None if enough else f"its blocks of {self.size} are not full"

    def keep(self, weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.parts, compress(weight, self.size), strict=True))


class _LargerBlocks(_Blocks, name="bsr8"):
    """Square blocks of 8 that hold a weight."""

    size = 8


def _count(weight: Tensor) -> int:
    return int(torch.count_nonzero(weight))


def _refusal(weight: Tensor) -> str | None:
    if weight.device.type != "cpu":
        return f"compressed rows are for CPUs, the weights are on {weight.device}"
    if not has_product(weight.dtype):
        return f"torch has no product in {str(weight.dtype).removeprefix('torch.')}"
    if weight.numel() == 0 or max(weight.numel(), *weight.shape) > LARGEST_INDEX:
        return f"{weight.numel():,} weights are too many for indices of 32 bits" if weight.numel() else "it is empty"
    return None
