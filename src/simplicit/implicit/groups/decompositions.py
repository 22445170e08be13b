"""What torch writes operations with: its table of decompositions, without those that a reader of programs knows."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache
from typing import Any

import torch

_MAKING_NAMES = """
    arange empty eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
"""
_MAKING = frozenset(_MAKING_NAMES.split())
Table = dict[Any, Callable[..., Any]]


def decompositions(known: Container[str]) -> Table:
    """Return torch's functions by operation, of all but those whose names without overload are ``known``."""
    return _without(frozenset(name for name in map(_packet, _whole()) if name in known))


@cache
def _without(known: frozenset[str]) -> Table:
    return {one: function for one, function in _whole().items() if _packet(one) not in known}


@cache
def _whole() -> Table:
    from torch._decomp import decomposition_table  # takes a second

    found = {one: function for one, function in decomposition_table.items() if isinstance(one, torch._ops.OpOverload)}
    # Composite ones are opened by themselves; what makes constants has nothing to open.
    return {one: found[one] for one in found if not one._can_decompose() and _packet(one) not in _MAKING}


def _packet(one: Any) -> str:
    return str(one.overloadpacket).removeprefix("aten.")
