"""H on the supports of rows, factored: what least squares on supports that stay takes, and where exchanges begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inner:
    """H on the supports of n rows: their ``places`` (n, m), which of these are ``real`` (n, m), the ``lines`` H_S·
    (n, m, d) and the ``root`` of H_SS (n, m, m), which is that of the identity where places are not real."""

    places: Tensor
    real: Tensor
    lines: Tensor
    root: Tensor

    @classmethod
    def of(cls, H: Tensor, support: Tensor) -> Inner | None:
        """None where float32 has not the digits for it; LinAlgError is raised where float64 has not."""
        counts = support.sum(1)
        most = int(counts.max())
        places = support.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        real = torch.arange(most) < counts[:, None]
        lines = H[places]
        inner = lines.gather(2, places[:, None, :].expand(-1, most, -1))
        if not bool(real.all()):
            inner = torch.where(real[:, :, None] & real[:, None, :], inner, torch.eye(most, dtype=H.dtype))
        root, failed = torch.linalg.cholesky_ex(inner)
        if not bool(failed.any()):
            return cls(places, real, lines, root)
        if H.dtype == torch.float64:
            raise np.linalg.LinAlgError("the Gram matrix is singular")
        return None

    def at(self, full: Tensor) -> Tensor:
        """Numbers of all columns (n, d) at the places, (n, m)."""
        return full.gather(1, self.places) * self.real

    def spread(self, inner: Tensor, columns: int) -> Tensor:
        """Numbers of the places at all columns, (n, d)."""
        return inner.new_zeros(len(inner), columns).scatter_add_(1, self.places, inner * self.real)


@dataclass(frozen=True, eq=False)
class Factored:
    """Rows whose supports stay."""

    H: Tensor
    inner: Inner

    @classmethod
    def of(cls, H: Tensor, support: Tensor) -> Factored | None:
        inner = Inner.of(H, support)
        return None if inner is None else cls(H, inner)

    def solution(self, c: Tensor) -> Tensor:
        """H_SS⁻¹c_S, (n, d)."""
        found = torch.cholesky_solve(self.inner.at(c)[:, :, None], self.inner.root)
        return self.inner.spread(found[:, :, 0], len(self.H))
