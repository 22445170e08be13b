"""Two of every four weights (2:4), which GPUs since Ampere multiply by at twice the speed of dense ones."""

from __future__ import annotations

import torch
from torch import Tensor

from simplicit.runtime.formats.base import Format, Parts

_GROUP, _KEPT = 4, 2
_DTYPES = (torch.float16, torch.bfloat16)
# What cuSPARSELt asks of the sides of a matrix in half precision.
_MULTIPLE = 64


class TwoOfFour(Format, name="2:4"):
    """``torch.sparse.to_sparse_semi_structured``: half of the weights and where they were among four.

    The parts are the dense weight, so that a ``state_dict`` is that of the layer; torch's own form is made of it.
    """

    parts = ("weight",)

    def refusal(self, weight: Tensor) -> str | None:
        if weight.device.type != "cuda":
            return f"2:4 needs CUDA, the weights are on {weight.device}"
        if weight.dtype not in _DTYPES:
            return f"2:4 needs float16 or bfloat16, not {str(weight.dtype).removeprefix('torch.')}"
        if weight.shape[0] % _MULTIPLE or weight.shape[1] % _MULTIPLE:
            return f"2:4 needs sides that are multiples of {_MULTIPLE}, not {tuple(weight.shape)}"
        most = int((weight != 0).reshape(-1, _GROUP).sum(dim=1).max())
        return None if most <= _KEPT else f"of four weights in a row, {most} are not zero"

    def keep(self, weight: Tensor) -> dict[str, Tensor]:
        return {"weight": weight.detach().clone()}

    def matrix(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        found: Tensor = torch.sparse.to_sparse_semi_structured(parts["weight"])
        return found

    def product(self, matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(x, matrix, bias)

    def dense(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        return parts["weight"]
