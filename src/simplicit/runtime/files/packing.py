r"""A tensor with many zeros in few bytes, bit for bit.

Of a tensor laid flat, $w \in F^N$, the K values that are not zero are kept, and their places
$0 \le p_1 < \dots < p_K < N$ in the shortest of these forms:

- *dense*: no places, all N values;
- *mask*: a bit for each entry, ⌈N/8⌉ bytes;
- *gaps* of b = 4, 8 or 16 bits: the zeros before each value, $g_k = p_k - p_{k-1} - 1$ with $p_0 = -1$, as words. With
  L = 2ᵇ − 1, a word c < L says "c zeros, then a value", and the word L says "L zeros and no value": ⌊g/L⌋ words L and
  g mod L after them, $\lceil b (K + \sum_k \lfloor g_k / L \rfloor) / 8 \rceil$ bytes.

Gaps are the differences between the columns of compressed sparse rows, going on from row to row, so that there are no
row pointers. Indices in the narrowest type take K words of 8 or 16 bits, and a pointer for each row; gaps of these bits
take K words and, at the most, about one for each row. At a density q of independent places a word of b bits is needed
1/(1 − (1 − q)^L) times per value: 4 bits take 6.3 bits per value at q = .1, where the entropy is 4.7, and 8 bits take
8.0 at q = .05. Places that are read rise, whatever the words are; what remains to check is where they end.

A negative zero is a zero and comes back as one; NaN is a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
DENSE, MASK = "dense", "mask"
#: Bits of a word by the name of the form.
GAPS = {"gaps4": 4, "gaps8": 8, "gaps16": 16}
#: Of which zeros are looked for; tensors of other dtypes are kept dense.
_SEARCHED = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor of a ``shape``: ``values`` (K,) at ``places`` of it laid flat.

    ``places`` are numbers (K,) that rise, int64, or a mask (N,) of K ones; None where all entries are kept, K = N.
    """

    shape: torch.Size
    values: Tensor
    places: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Packed:
        """A dense tensor, as it is."""
        return cls(tensor.shape, tensor.reshape(-1))

    @property
    def dtype(self) -> torch.dtype:
        """That of the values."""
        return self.values.dtype

    def dense(self) -> Tensor:
        """The tensor itself."""
        return self.into(torch.empty(self.shape, dtype=self.dtype))

    def is_finite(self) -> bool:
        """Whether there is neither NaN nor an infinite value."""
        if self.dtype.is_complex or not self.dtype.is_floating_point or not self.values.numel():
            return bool(torch.isfinite(self.values).all())
        return bool(torch.isfinite(torch.stack(self.values.aminmax())).all())  # far faster than to look at each

    def into(self, target: Tensor) -> Tensor:
        """Write all entries into a tensor of the same shape, of any floating dtype, device and strides; return it."""
        with torch.no_grad():
            if self.places is None:
                return target.copy_(self.values.reshape(self.shape))
            if not target.is_contiguous():
                return target.copy_(self.into(torch.empty(self.shape, dtype=target.dtype, device=target.device)))
            flat, places = target.view(-1).zero_(), self.places.to(target.device)
            values = self.values.to(target.device, target.dtype)
            if places.dtype == torch.bool:
                flat.masked_scatter_(places, values)
            else:
                flat.index_copy_(0, places, values)
        return target


def packed(tensor: Tensor) -> tuple[str, Bytes, Tensor]:
    """The shortest form of a strided CPU tensor: its name, the bytes of the places, and the values (K,)."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype not in _SEARCHED:
        return DENSE, np.empty(0, np.uint8), flat
    kept = flat != 0
    gaps = np.diff(np.flatnonzero(kept.numpy()), prepend=-1) - 1
    sizes = {form: _gap_bytes(gaps, bits) for form, bits in GAPS.items()} | {MASK: -(-flat.numel() // 8)}
    form = min(sizes, key=lambda one: sizes[one])
    if sizes[form] + gaps.size * flat.element_size() >= flat.numel() * flat.element_size():
        return DENSE, np.empty(0, np.uint8), flat
    places = np.packbits(kept.numpy(), bitorder="little") if form == MASK else _words(gaps, GAPS[form])
    return form, places, flat[kept]


def _gap_bytes(gaps: NDArray[np.int64], bits: int) -> int:
    words = gaps.size + int((gaps // (2**bits - 1)).sum())
    return -(-words * bits // 8)


def _words(gaps: NDArray[np.int64], bits: int) -> Bytes:
    """The words of gaps as bytes; of two words of 4 bits the first is the lower, and one too many is the word L."""
    limit = 2**bits - 1
    whole, rest = np.divmod(gaps, limit)
    count = gaps.size + int(whole.sum())
    words = np.full(count + (count % 2 if bits < 8 else 0), limit, "<u2" if bits > 8 else "u1")
    words[np.cumsum(whole + 1) - 1] = rest
    return words[::2] | (words[1::2] << 4) if bits < 8 else words.view(np.uint8)


def unpacked(form: str, places: Bytes, values: Tensor, shape: Sequence[int]) -> Packed:
    """The tensor of a form that :func:`packed` names, from its bytes and values (K,), all of them checked.

    ValueError says what is wrong with them: of another number than the shape, or places that go beyond it.
    """
    size, entries = torch.Size(shape), int(np.prod(shape, dtype=object))
    if form == DENSE:
        _check(places.size == 0 and values.numel() == entries, f"{values.numel()} values, its shape has {entries}")
        return Packed(size, values)
    if form == MASK:
        _check(places.size == -(-entries // 8), f"a mask of {places.size} bytes, its shape has {entries} entries")
        mask = np.unpackbits(places, bitorder="little").astype(bool)
        found = int(mask.sum())
        _check(found == values.numel(), f"a mask of {found} ones for {values.numel()} values")
        _check(not mask[entries:].any(), "a mask that goes beyond its shape")
        return Packed(size, values, torch.from_numpy(mask[:entries]))
    if form not in GAPS:
        raise ValueError(f"the form {form!r}, known are {', '.join((DENSE, MASK, *GAPS))}")
    found_places = _places(places, GAPS[form])
    _check(found_places.size == values.numel(), f"{found_places.size} places for {values.numel()} values")
    last = int(found_places[-1]) if found_places.size else -1
    _check(last < entries, f"a value at place {last}, its shape has {entries} entries")
    return Packed(size, values, torch.from_numpy(found_places))


def _check(right: bool, defect: str) -> None:
    if not right:
        raise ValueError(defect)


def _places(words: Bytes, bits: int) -> NDArray[np.int64]:
    """The places (K,) that words say."""
    if bits < 8:
        words = np.stack([words & 15, words >> 4], axis=1).reshape(-1)
    elif bits > 8:
        _check(words.size % 2 == 0, f"{words.size} bytes of words of two")
        words = np.frombuffer(words.tobytes(), "<u2")
    kept = words < 2**bits - 1
    # A word below L ends at a value, one place further on; numbers of a word's own width hold that, for L + 0 = L.
    ends = np.cumsum(words + kept, dtype=np.int64)
    places: NDArray[np.int64] = ends[np.flatnonzero(kept)] - 1
    return places
