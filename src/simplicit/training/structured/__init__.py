"""Structured sparsity: whole units, neurons, channels or attention heads, are dropped from a network.

``tracing`` carries labels of rows through a graph, by ``classes`` of what goes together, and ``widths`` says which
units there are: rows that make them, and columns that read them. ``tableau`` has the least squares of all rows that
read a unit, and the price of its columns; ``dropping`` eliminates and exchanges by it. ``shares`` says how many units
each width keeps, and ``narrowing`` is the provider of layers that lose the others.
"""

from __future__ import annotations

from simplicit.training.structured.narrowing import Narrowing
from simplicit.training.structured.shares import ALLOCATIONS, narrowed, shares_of
from simplicit.training.structured.widths import Plan, Width

__all__ = ["ALLOCATIONS", "Narrowing", "Plan", "Width", "narrowed", "shares_of"]
