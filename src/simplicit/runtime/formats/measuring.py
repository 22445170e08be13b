"""How long something takes beside something else: interleaved minima, or medians and quartiles, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# At least so many seconds of each, so that what takes microseconds is not lost among the clock's.
_LEAST_SPAN, _MOST_CALLS, _MOST_ROUNDS = 2e-4, 50, 12
# Of a spread: fewer rounds than these have no quartiles, more say nothing new.
_LEAST_OF_SPREAD, _MOST_OF_SPREAD = 3, 301


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
                found[name] = min(found[name], _seconds(way, _calls(found[name])))
    return found


@dataclass(frozen=True)
class Spread:
    """Seconds of one call: the median of so many rounds, and their quartiles."""

    median: float
    lower: float
    upper: float
    rounds: int


def spreads(ways: Mapping[str, Callable[[], Any]], budget: float) -> dict[str, Spread]:
    """The spread of the seconds of each way, measured in turn (A B C A B C …), three rounds at least.

    The ``budget`` (seconds) is for all ways together. Each is called once, uncounted, before it is timed: what the one
    before it put out of the caches is back then, as it is where one way alone is called again and again.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        last = {name: _seconds(way, 1) for name, way in ways.items()}
        start = began = time.perf_counter()
        for done in range(_MOST_OF_SPREAD):
            if done >= _LEAST_OF_SPREAD and 2 * time.perf_counter() - began - start > budget:
                break  # another round as long as the last one would be too long
            began = time.perf_counter()
            for name, way in ways.items():
                way()
                last[name] = _seconds(way, _calls(last[name]))
                found[name].append(last[name])
    return {name: _spread(seconds) for name, seconds in found.items()}


def _spread(seconds: Sequence[float]) -> Spread:
    lower, median, upper = map(float, np.percentile(seconds, (25, 50, 75)))
    return Spread(median, lower, upper, len(seconds))


def _calls(seconds: float) -> int:
    """How many calls in a row are timed, of something that takes about so many seconds."""
    return max(1, min(_MOST_CALLS, int(_LEAST_SPAN / seconds)))


def _seconds(way: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return max((time.perf_counter() - start) / calls, 1e-9)
