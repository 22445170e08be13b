"""Compaction, exact: a network or a model without what its outputs do not depend on, or what is constant."""

from __future__ import annotations

from simplicit.runtime.compaction.module import CompactNetwork
from simplicit.runtime.compaction.networks import compact_network

__all__ = ["CompactNetwork", "compact_network"]
