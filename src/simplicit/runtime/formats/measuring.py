"""How long something takes beside something else: interleaved minima, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# At least so many seconds of each, so that what takes microseconds is not lost among the clock's.
_LEAST_SPAN, _MOST_CALLS, _MOST_ROUNDS = 2e-4, 50, 12


def least_seconds(ways: Mapping[str, Callable[[], Any]], budget: float) -> dict[str, float]:
    """The least seconds of one call of each way, measured in turn, so that a busy machine is as unjust to all.

    The first call of each counts when the ``budget`` (seconds) allows no other.
    """
    found: dict[str, float] = {}
    with torch.no_grad():
        start = time.perf_counter()
        for name, way in ways.items():
            found[name] = _seconds(way, 1)
        for _ in range(_MOST_ROUNDS):
            if time.perf_counter() - start + sum(found.values()) > budget:
                break
            for name, way in ways.items():
                calls = max(1, min(_MOST_CALLS, int(_LEAST_SPAN / found[name])))
                found[name] = min(found[name], _seconds(way, calls))
    return found


def _seconds(way: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return max((time.perf_counter() - start) / calls, 1e-9)
