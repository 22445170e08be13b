"""A network of token ids, a mask and an image, with samples, for tests of everything that takes several inputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import simplicit as sp

#: How many ids and kinds of tokens there are.
IDS, KINDS = 11, 2


class Mixed(nn.Module):
    """Tokens looked up in tables, averaged where a mask says so, and an image beside them; a mapping of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.kinds = nn.Embedding(IDS, 8), nn.Embedding(KINDS, 8)
        self.norm, self.hidden = nn.LayerNorm(8), nn.Linear(8, 8)
        self.image, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(
        self, ids: Tensor, mask: Tensor, image: Tensor, kinds: Tensor, use_cache: bool = False
    ) -> dict[str, Tensor]:
        tokens = self.ids(ids) + self.kinds(kinds)
        tokens = self.norm(tokens + torch.relu(self.hidden(tokens)))
        shares = mask.to(tokens.dtype)[:, :, None]
        mean = (tokens * shares).sum(1) / shares.sum(1).clamp(min=1)
        return {"logits": self.head(mean + torch.tanh(self.image(image.flatten(1)))), "tokens": tokens}


def mixed(dtype: torch.dtype = torch.float32) -> Mixed:
    """The network with weights that are always the same."""
    torch.manual_seed(0)
    return Mixed().to(dtype).eval()


def samples(m: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What it takes, always the same; images lie in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    return {
        "ids": torch.randint(IDS, (m, 5), generator=generator),
        "mask": torch.rand(m, 5, generator=generator) > 0.3,
        "image": torch.rand(m, 2, 3, generator=generator, dtype=dtype),
        "kinds": torch.randint(KINDS, (m, 5), generator=generator),
        "use_cache": False,
    }


@cache
def captured(dtype: torch.dtype = torch.float32) -> sp.ImplicitModel:
    """Its implicit model, captured once for all tests."""
    return sp.from_torch(mixed(dtype), samples(2, dtype))


def model_and_samples(m: int = 7) -> tuple[Mixed, sp.ImplicitModel, dict[str, Any]]:
    """The network, its implicit model, and samples."""
    return mixed(), captured(), samples(m)
