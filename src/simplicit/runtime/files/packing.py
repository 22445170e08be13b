r"""A tensor with many zeros in few bytes, bit for bit.

Of a tensor laid flat, $w \in F^N$, the K values that are not zero are kept, and their places
$0 \le p_1 < \dots < p_K < N$ in the shortest of these forms:

- *dense*: no places, all N values;
- *mask*: a bit for each entry, ⌈N/8⌉ bytes;
- *steps* of b = 8 or 16 bits: $p_k - p_{k-1}$ with $p_0 = 0$, as words; where a step is longer than L, the most that a
  word holds (255; 32,767, for torch counts signed words), zeros are kept as values, each L further than the one before.

Steps are the differences between the columns of compressed sparse rows, going on from row to row, so that there are no
row pointers. At a density q of independent places $(1-q)^L / (1 - (1-q)^L)$ zeros are kept per value: none at q = .05
for words of 8 bits, .08 at q = .01. The entropy of places is 4.7 bits per value at q = .1, and words of 4 bits take 6.3
there, but have to be taken apart first; of bytes the places are the sums, found in one pass. A mask, all of whose bits
are looked at, must be a good deal shorter than steps to be taken. What remains to check is that words are not 0, so
that places rise, and where they end.

A negative zero is a zero and comes back as one; NaN is a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
DENSE, MASK = "dense", "mask"
#: Words by the name of the form.
STEPS: dict[str, np.dtype[Any]] = {"steps8": np.dtype("u1"), "steps16": np.dtype("<i2")}
#: A mask is taken where steps are so many times as long.
_SLOWER = 1.15
#: Of which zeros are looked for; tensors of other dtypes are kept dense.
_SEARCHED = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor of a ``shape``: ``values`` (K,) at places of it laid flat that are the sums of ``steps``.

    These are integers (K,), added up when the tensor is written, for places take eight times their memory; None where
    all entries are kept, K = N. ``finite`` is whether values are known to be neither NaN nor infinite.
    """

    shape: torch.Size
    values: Tensor
    steps: Tensor | None = None
    finite: bool = False

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
        return self.finite or all_finite(self.values)

    def into(self, target: Tensor) -> Tensor:
        """Write all entries into a tensor of the same shape, of any floating dtype, device and strides; return it."""
        if self.steps is None:
            return target.copy_(self.values.view(self.shape))
        if not target.is_contiguous():
            return target.copy_(self.into(torch.empty(self.shape, dtype=target.dtype, device=target.device)))
        flat = target.view(-1).zero_()
        places = torch.cumsum(self.steps, 0)  # in int64
        flat.index_copy_(0, places.to(target.device), self.values.to(target.device, target.dtype))
        return target


def all_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor an infinite value."""
    if values.dtype.is_complex:
        return bool(torch.isfinite(values).all())
    if not values.dtype.is_floating_point or not values.numel():
        return True
    if values.dtype.itemsize == 1:
        values = values.float()  # torch does not compare those of 8 bits
    return bool(torch.isfinite(torch.stack(values.aminmax())).all())  # far faster than to look at each


def packed(tensor: Tensor) -> tuple[str, Bytes, Tensor]:
    """The form of a strided CPU tensor that is best: its name, the bytes of the places, and the values (K,)."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype not in _SEARCHED:
        return DENSE, np.empty(0, np.uint8), flat
    kept = (flat != 0).numpy()
    steps, each = np.diff(np.flatnonzero(kept), prepend=0), flat.element_size()
    fillers = {form: _fillers(steps, words) for form, words in STEPS.items()}
    mask = -(-flat.numel() // 8) + steps.size * each
    sizes = {form: (steps.size + int(fillers[form].sum())) * (STEPS[form].itemsize + each) for form in STEPS}
    form = min(sizes, key=lambda one: sizes[one])
    if min(sizes[form], mask) >= flat.numel() * each:
        return DENSE, np.empty(0, np.uint8), flat
    if sizes[form] >= _SLOWER * mask:
        return MASK, np.packbits(kept, bitorder="little"), flat[torch.from_numpy(kept)]
    words = _words(steps, fillers[form], STEPS[form])
    return form, words.view(np.uint8), flat[torch.from_numpy(np.cumsum(words, dtype=np.int64))]


def _fillers(steps: NDArray[np.int64], words: np.dtype[Any]) -> NDArray[np.int64]:
    """How many zeros are kept before each value (K,)."""
    filled: NDArray[np.int64] = np.maximum(steps - 1, 0) // np.iinfo(words).max
    return filled


def _words(steps: NDArray[np.int64], fillers: NDArray[np.int64], kind: np.dtype[Any]) -> NDArray[Any]:
    longest = np.iinfo(kind).max
    words = np.full(steps.size + int(fillers.sum()), longest, kind)
    words[np.cumsum(fillers + 1) - 1] = steps - longest * fillers
    return words


def unpacked(form: str, places: Tensor, values: Tensor, shape: Sequence[int], *, finite: bool = False) -> Packed:
    """The tensor of a form that :func:`packed` names, from its bytes and values (K,), all of them checked.

    ValueError says what is wrong with them: of another number than the shape, or places that do not rise or go beyond
    it.
    """
    size, entries = torch.Size(shape), prod(shape)
    if form == DENSE:
        _check(not places.numel() and values.numel() == entries, f"{values.numel()} values, its shape has {entries}")
        return Packed(size, values, finite=finite)
    if form == MASK:
        steps = _marked(places, entries)
    elif form in STEPS:
        steps = _stepped(places, STEPS[form])
    else:
        raise ValueError(f"the form {form!r}, known are {', '.join((DENSE, MASK, *STEPS))}")
    _check(steps.numel() == values.numel(), f"{steps.numel()} places for {values.numel()} values")
    last = int(steps.sum()) if steps.numel() else -1  # in int64
    _check(last < entries, f"a value at place {last}, its shape has {entries} entries")
    return Packed(size, values, steps, finite)


def _check(right: bool, defect: str) -> None:
    if not right:
        raise ValueError(defect)


def _marked(mask: Tensor, entries: int) -> Tensor:
    """The steps between the ones of a mask; those beyond its shape are among them."""
    _check(mask.numel() == -(-entries // 8), f"a mask of {mask.numel()} bytes, its shape has {entries} entries")
    places = np.flatnonzero(np.unpackbits(mask.numpy(), bitorder="little").view(bool))
    return torch.from_numpy(np.diff(places, prepend=0))


def _stepped(words: Tensor, kind: np.dtype[Any]) -> Tensor:
    """The steps (K,) that words are."""
    _check(words.numel() % kind.itemsize == 0, f"{words.numel()} bytes of words of {kind.itemsize}")
    steps = words.numpy() if kind.itemsize == 1 else np.frombuffer(words.numpy().tobytes(), kind).astype(np.int16)
    _check(not steps.size or (steps[0] >= 0 and steps[1:].min(initial=1) >= 1), "places that do not rise")
    return torch.from_numpy(steps)
