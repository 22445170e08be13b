"""Compaction, exact: a network or a model without what its outputs do not depend on, or what is constant."""

from __future__ import annotations

from simplicit.runtime.compaction.compact import compact
from simplicit.runtime.compaction.module import Compaction, CompactNetwork

__all__ = ["CompactNetwork", "Compaction", "compact"]
