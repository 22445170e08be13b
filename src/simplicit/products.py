r"""Sparse matrices that torch multiplies by: compressed rows and blocks, with activations as (features, samples).

torch hands W X, for a compressed W (out, in) and a dense X (in, samples), to the kernels of MKL, where it was built
with them and the dtype is one of theirs. With samples last both are read and written in order; Yᵀ = Xᵀ Wᵀ, samples
first, is a view, and what is computed entry by entry keeps its order for the next product.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

#: Indices of 32 bits are read in half the time of those of 64.
INDEX = torch.int32
LARGEST_INDEX = int(torch.iinfo(INDEX).max)

# torch says once a process that these layouts are young; it is known, and nothing that a caller could act on.
_IN_BETA = r"Sparse (CSR|BSR) tensor support is in beta state"


def compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix of ``shape`` that shares memory with its parts: CSR for values (k,), BSR for values (k, b, b).

    ``rows`` (out + 1,) says where each row, or row of blocks, begins among the ``columns`` (k,). They are taken as they
    are: what comes from outside goes through :func:`defect` first.
    """
    make = torch.sparse_csr_tensor if values.ndim == 1 else torch.sparse_bsr_tensor
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _IN_BETA, UserWarning)
        return make(rows, columns, values, size=shape, check_invariants=False)


def compress(weight: Tensor, block: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The parts (rows, columns, values) of a dense matrix, as :func:`compressed` takes them; ``block`` is b of BSR."""
    weight = weight.detach()
    if block is None:
        found = weight != 0
        rows = torch.nn.functional.pad(found.sum(dim=1).cumsum(dim=0), (1, 0))
        return rows.to(INDEX), found.nonzero()[:, 1].to(INDEX), weight[found]
    blocked = blocks(weight, block)
    found = (blocked != 0).any(dim=3).any(dim=2)
    rows = torch.nn.functional.pad(found.sum(dim=1).cumsum(dim=0), (1, 0))
    return rows.to(INDEX), found.nonzero()[:, 1].to(INDEX), blocked[found].contiguous()


def blocks(weight: Tensor, size: int) -> Tensor:
    """The square blocks of a matrix, (out / size, in / size, size, size); its sides are multiples of ``size``."""
    rows, columns = weight.shape
    return weight.reshape(rows // size, size, columns // size, size).transpose(1, 2)


def defect(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> str | None:
    """What is wrong with the parts of a matrix of ``shape``; None where a product may read them."""
    block = 1 if values.ndim == 1 else values.shape[-1]
    if tuple(rows.shape) != (shape[0] // block + 1,) or len(columns) != len(values):
        return f"{len(rows)} places of rows and {len(columns)} columns for {len(values)} values"
    if int(rows[0]) != 0 or int(rows[-1]) != len(columns) or bool((rows[1:] < rows[:-1]).any()):
        return "the places of the rows are not in order"
    if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= shape[1] // block):
        return f"columns from {int(columns.min())} to {int(columns.max())}, of {shape[1] // block}"
    return None


def from_scipy(matrix: sp.csr_array) -> Tensor:
    """A CSR matrix of SciPy with fewer than 2³¹ entries as one of torch, which shares the memory of its values."""
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices))
    return compressed(rows, columns, torch.from_numpy(matrix.data), (int(matrix.shape[0]), int(matrix.shape[1])))


def product(matrix: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Y = X Wᵀ + b, (m, out) with samples last in memory, for a compressed W (out, in), X (m, in) and b (out,)."""
    if len(x) == 1:  # a vector is four times faster than a matrix of one column
        y = torch.mv(matrix, x[0]) if bias is None else torch.addmv(bias, matrix, x[0])
        return y[None]
    return (matrix @ x.T if bias is None else torch.addmm(bias[:, None], matrix, x.T)).T


@cache
def has_product(dtype: torch.dtype) -> bool:
    """Whether torch multiplies compressed rows of a dtype by matrices and by vectors, on the CPU."""
    rows, columns = torch.tensor([0, 1, 2], dtype=INDEX), torch.tensor([0, 1], dtype=INDEX)
    one = compressed(rows, columns, torch.ones(2, dtype=dtype), (2, 2))
    try:
        with torch.no_grad():
            return all(bool((product(one, torch.ones(m, 2, dtype=dtype)) == 1).all()) for m in (1, 2))
    except (RuntimeError, NotImplementedError):  # a dtype without a kernel, or a torch that was built without MKL
        return False
