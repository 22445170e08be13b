"""The section cliffs of row_solver.py: a cold solve against the cheapest way that the library itself knows.

That is its own path of strengths, a decade apart, that ends at the same strength. The grid is of designs (independent
columns, neighbours correlated by .95, all columns twice), samples per column, noise and strengths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from results import say
from sections import Options

import simplicit as sp

#: Columns d and targets, samples per column, noise as a share of the targets' size, and strengths as shares of β_max.
COLUMNS, TARGETS = 128, 4
SHARES, NOISES, STRENGTHS = (0.1, 0.5, 1.0, 2.0, 10.0), (0.0, 0.1), tuple(10.0**-k for k in range(1, 9))
DESIGNS = ("independent", "correlated", "duplicates")
#: A solve that takes less is repeated so often, and the least time counts.
SHORT, REPEATS = 0.2, 3


def cliffs(options: Options) -> list[dict[str, Any]]:
    """For every design, shape and noise: the strength at which a cold solve is dearest beside the path."""
    rows = []
    for design, share, noise in product(DESIGNS, SHARES, NOISES):
        cells = list(_cells(design, share, noise, max(COLUMNS // options.shrink, 16)))
        worst = max(cells, key=lambda cell: cell["ratio"])
        rows.append(
            worst
            | {
                "design": design,
                "share": share,
                "noise": noise,
                "cells": len(cells),
                "above": sum(cell["ratio"] > 1.5 for cell in cells),
                "unconverged": sum(cell["unconverged"] for cell in cells),
                "dearest": max(cell["cold"] for cell in cells),
            }
        )
        say(f"cliffs {design}, m/d {share:g}, noise {noise:g}: {worst['ratio']:.2f} at {worst['strength']:.0e}")
    return rows


def data(design: str, share: float, noise: float, d: int) -> tuple[Any, Any]:
    """Features (m, d) and targets, each a sum of d/16 columns and noise."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(max(int(share * d), 8), d))
    if design == "correlated":
        for j in range(1, d):
            features[:, j] = 0.95 * features[:, j - 1] + (1 - 0.95**2) ** 0.5 * features[:, j]
    elif design == "duplicates":
        features[:, d // 2 :] = features[:, : d // 2]
    truth = np.zeros((d, TARGETS))
    for row in truth.T:
        row[rng.choice(d, max(d // 16, 1), replace=False)] = rng.normal(size=max(d // 16, 1))
    targets = features @ truth
    return features, targets + noise * targets.std() * rng.normal(size=targets.shape)


def _cells(design: str, share: float, noise: float, d: int) -> Iterator[dict[str, Any]]:
    """Cold and along the path at every strength; the strongest is a path of one member."""
    features, targets = data(design, share, noise, d)
    largest = sp.beta_max(features, targets).max()
    penalties = [sp.L1(strength * largest) for strength in STRENGTHS]
    for number, strength in enumerate(STRENGTHS[1:], 1):
        common: dict[str, Any] = {"executor": "serial", "throw": False}

        def cold(last: sp.L1 = penalties[number], common: dict[str, Any] = common) -> Any:
            return sp.solve_rows(features, targets, penalty=last, **common)

        def along(members: list[sp.L1] = penalties[: number + 1], common: dict[str, Any] = common) -> Any:
            return sp.solve_path(features, targets, members, **common)

        (alone, seconds), (_, path) = processor_seconds(cold), processor_seconds(along)
        yield {
            "strength": strength,
            "cold": seconds,
            "path": path,
            "ratio": seconds / path,
            "unconverged": int((~alone.converged).sum()),
        }


def processor_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives and its processor seconds, the least of several runs of a short one."""
    least = np.inf
    for _ in range(REPEATS):
        begun = time.process_time()
        result = work()
        least = min(least, time.process_time() - begun)
        if least > SHORT:
            break
    return result, float(least)
