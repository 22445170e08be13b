"""Penalties h of the row problem: one file each.

A penalty is a separable convex function Σⱼ hⱼ(wⱼ) with its proximal map and what the dual and the polish need.
:class:`Penalty` says what that is; ``PENALTIES`` names the ones there are.
"""

from __future__ import annotations

from simplicit.rows.penalties.base import Penalty
from simplicit.rows.penalties.l1 import L1

__all__ = ["L1", "PENALTIES", "Penalty"]

PENALTIES: dict[str, type[Penalty]] = {"l1": L1}
