"""A decoder as Llama has it, but for rotary positions, which no layer's cost depends on: any sizes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


@dataclass(frozen=True)
class Sizes:
    """Of the states, of the feed-forward part, of the stack, of the heads, of the vocabulary."""

    width: int
    inner: int
    blocks: int
    heads: int = 4
    words: int = 16

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Rows and columns of the linear layers of a block."""
        d, f = self.width, self.inner
        return [(d, d)] * 4 + [(f, d)] * 2 + [(d, f)]

    @property
    def weights(self) -> int:
        """Of all linear layers but the head."""
        return self.blocks * sum(rows * columns for rows, columns in self.layers)


class _Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        d, f, self.heads = sizes.width, sizes.inner, sizes.heads
        self.n1, self.n2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((d, f), (d, f), (f, d)))

    def forward(self, x: Tensor) -> Tensor:
        n = self.n1(x)
        q, k, v = (one(n).unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        x = x + self.o(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        n = self.n2(x)
        return x + self.down(silu(self.gate(n)) * self.up(n))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """From token ids (m, T) to logits (m, T, words)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.words, sizes.width)
        self.blocks = nn.Sequential(*(_Block(sizes) for _ in range(sizes.blocks)))
        self.norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.head = nn.Linear(sizes.width, sizes.words, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(ids))))  # type: ignore[no-any-return]
