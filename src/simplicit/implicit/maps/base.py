r"""What a linear map is: a block of A, B, C or D that knows how to multiply.

Samples come first, so that a map M of shape (out, in) takes X (m, in) to X Mᵀ (m, out). A kind of map is one subclass
of :class:`LinearMap` in a module of its own, imported in :mod:`simplicit.implicit.maps`. What becomes of two maps, one
after the other or added up, is a rule for a pair of kinds in :mod:`~simplicit.implicit.maps.algebra`; how a map is
written to ONNX is an entry in :mod:`simplicit.runtime.onnx.linear`. Kinds without either are written down there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.maps.files import Arrays, Entry, Stored, csr_arrays
from simplicit.implicit.maps.sparse import Csr, row_counts

Product: TypeAlias = Callable[[Tensor], Tensor]

#: The kinds of maps by the names that files have for them.
KINDS: dict[str, type[LinearMap]] = {}


class LinearMap(ABC):
    """A linear map M of shape (out, in), with entries of one dtype, float32 or float64; immutable.

    A subclass sets ``shape`` and ``dtype``, which is also that of what :meth:`apply` takes and returns, and defines the
    abstract methods. With the class argument ``kind``, a name, it is stored in a form of its own (:meth:`to_stored` and
    :meth:`from_stored`); without, in compressed sparse rows. If it has numbers to train, it defines :attr:`values`,
    :meth:`with_values` and :meth:`product`.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    #: Whether the map is no smaller than its entries written down, so that sums may write them down.
    is_written: ClassVar[bool] = False

    def __init_subclass__(cls, *, kind: str | None = None) -> None:
        super().__init_subclass__()
        if kind is not None:
            KINDS[kind] = cls

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ, (m, in) to (m, out), as a new tensor."""

    @abstractmethod
    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M, (m, out) to (m, in), as a new tensor."""

    @abstractmethod
    def absolute(self) -> LinearMap:
        """|M|, entry by entry."""

    @abstractmethod
    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> LinearMap:
        """diag(left) M diag(right) in the dtype of M, for factors (out,) and (in,); None stands for ones.

        InputError is raised where a factor has another shape, or entries leave the range of the dtype.
        """

    @abstractmethod
    def astype(self, dtype: Any) -> LinearMap:
        """The same map in float32 or float64; InputError where entries leave its range."""

    @abstractmethod
    def to_csr(self) -> Csr:
        """All entries written down, canonical: sorted indices, no duplicates, no stored zeros."""

    @cached_property
    def nnz(self) -> int:
        """How many entries differ from zero."""
        return int(self.row_counts().sum())

    @property
    def work(self) -> int:
        """How many products of numbers one sample takes; none for mere wiring."""
        return self.nnz

    @property
    def stored(self) -> int:
        """How many numbers it keeps."""
        return self.nnz

    @property
    def is_zero(self) -> bool:
        """Whether all entries are zero."""
        return self.nnz == 0

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        """Add X Mᵀ to ``sums``, (m, out), in place."""
        sums += self.apply(x)

    def affine(self, bias: Tensor, x: Tensor) -> Tensor:
        """X Mᵀ + b, (m, out), as a new tensor, for a bias b (out,)."""
        sums = bias.repeat(len(x), 1)
        self.add_to_(sums, x)
        return sums

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,)."""
        return row_counts(self.to_csr())

    def row_sums(self) -> NDArray[np.float64]:
        """The sum of the sizes |Mᵢⱼ| over each row, (out,)."""
        ones = torch.ones(1, self.shape[1], dtype=torch.float64)
        return np.asarray(self.astype(np.float64).absolute().apply(ones)[0].numpy())

    @property
    def parts(self) -> tuple[LinearMap, ...]:
        """The maps whose sum it is: itself alone, unless its kind is a sum."""
        return (self,)

    @property
    def values(self) -> Tensor | None:
        """The numbers that can be trained, (k,), a copy in the map's dtype; k = 0 for mere wiring.

        None where the kind does not say which they are.
        """
        return None

    def with_values(self, values: Tensor) -> LinearMap:
        """The map with other values, (k,), in their dtype."""
        raise NotImplementedError(f"{type(self).__name__} has no values of its own")

    def product(self, values: Tensor | None = None) -> Product:
        """X ↦ X Mᵀ with these values, or its own, by operations of torch that autograd knows."""
        return self.apply

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """The gradient of Σ Ȳ ∘ (X Mᵀ) by the values, (k,), for Ȳ (m, out) and X (m, in)."""
        assert self.values is not None
        with torch.enable_grad():
            values = self.values.to(X.dtype).requires_grad_()
            (gradient,) = torch.autograd.grad(self.product(values)(X.detach()), values, Y_bar)
        return gradient

    def to_stored(self) -> tuple[Entry, Arrays]:
        """What files hold of the map: an entry for the config, and arrays by names of its own."""
        return {"kind": "csr"}, csr_arrays(self.to_csr())

    @classmethod
    def from_stored(cls, stored: Stored) -> LinearMap:
        """The map of this kind that a file describes; errors as for :func:`restored`."""
        raise NotImplementedError(f"{cls.__name__} has no file form of its own")


def stored_parts(parts: Mapping[str, LinearMap]) -> tuple[dict[str, Entry], Arrays]:
    """What files hold of maps: their entries, and all their arrays under names that begin with those of the maps."""
    entries: dict[str, Entry] = {}
    arrays: Arrays = {}
    for name, part in parts.items():
        entries[name], own = part.to_stored()
        arrays |= {f"{name}.{key}": array for key, array in own.items()}
    return entries, arrays


def restored(stored: Stored) -> LinearMap:
    """The map that a file describes.

    InputError or DataError is raised where it describes none, or one of another shape than it should have; KeyError,
    TypeError or ValueError where something in its entry is missing or of another type.
    """
    kind = stored.entry["kind"]
    if kind not in KINDS:
        raise InputError(f"{stored.name}: the kind {kind!r} is not one of {', '.join(sorted(KINDS))}")
    block = KINDS[kind].from_stored(stored)
    if block.shape != stored.shape:
        raise InputError(f"{stored.name} has shape {block.shape}, expected {stored.shape}")
    return block


def as_factors(values: NDArray[Any], length: int, name: str) -> NDArray[np.float64]:
    """The entries of a diagonal, (length,), as float64; InputError, with their ``name``, for another shape."""
    factors = np.asarray(values, dtype=np.float64)
    if factors.shape != (length,):
        raise InputError(f"{name} must have shape ({length},), got {factors.shape}", argument=name)
    return factors


def rounded(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """``values`` in another dtype; what leaves its range becomes infinite, for the map to refuse."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)
