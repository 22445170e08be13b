"""Pictures with bars: how long each executor takes, and where non-zeros are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.report.canvas import COLOURS, INK, PALETTE, QUIET, clean, legend_outside, one_panel, two_panels

# Layers, and runs, whose names and numbers have room beside each other.
_FEW_LAYERS, _FEW_RUNS = 8, 4


@dataclass(frozen=True)
class Bars:
    """One panel: a bar of seconds for each name.

    Attributes
    ----------
    title : str
    seconds : mapping of str to float
        The first is what the others are compared with.
    fixed : mapping of str to float
        The part of each bar that would be there without any work; empty for none.
    """

    title: str
    seconds: Mapping[str, float]
    fixed: Mapping[str, float] = field(default_factory=dict)


def draw_bars(path: Path, left: Bars, right: Bars) -> None:
    """Write a PNG with two panels of bars; on each bar stand its seconds, and how many times faster than the first."""
    with two_panels(path, (1, 1)) as panels:
        for axes, bars in zip(panels, (left, right), strict=True):
            _draw_seconds(axes, bars)


def _draw_seconds(axes: Any, bars: Bars) -> None:
    names, seconds = list(bars.seconds), list(bars.seconds.values())
    axes.bar(names, seconds, width=0.62, color=[COLOURS[1], *[COLOURS[0]] * (len(names) - 1)])
    if bars.fixed:
        shown = [min(bars.fixed[name], bars.seconds[name]) for name in names]
        axes.bar(names, shown, width=0.62, color="white", alpha=0.55)
        quiet = {"textcoords": "offset points", "color": QUIET, "fontsize": 9}
        axes.annotate("pale: fixed cost", (0, 1), xycoords="axes fraction", xytext=(2, -10), **quiet)
    for place, height in enumerate(seconds):
        # The seconds stand above the factor, and the first bar has none.
        at = {"xy": (place, height), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{height:.3g} s", xytext=(0, 16 if place else 4), color=INK, fontweight="bold", **at)
        if place:
            axes.annotate(f"× {seconds[0] / height:.2f}", xytext=(0, 4), color=QUIET, **at)
    clean(axes)
    axes.tick_params(axis="x", labelcolor=INK)
    axes.set(ylim=(0, max(seconds) * 1.2), ylabel="wall-clock seconds", title=bars.title)


def draw_layers(path: Path, layers: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
    """Write a PNG: the non-zeros of each layer, from the first, one colour for each run; ``counts`` has them by run."""
    with one_panel(path) as axes:
        width = 0.8 / max(1, len(counts))
        places = np.arange(len(layers))
        crowded = len(layers) > _FEW_LAYERS
        for number, (name, values) in enumerate(counts.items()):
            at = places + (number - (len(counts) - 1) / 2) * width
            bars = axes.bar(at, values, width=0.9 * width, color=PALETTE[number % len(PALETTE)], label=name)
            if len(counts) <= _FEW_RUNS and not crowded:
                axes.bar_label(bars, [f"{value:,}" for value in values], fontsize=8, color=QUIET, padding=2)
        axes.set_yscale("symlog", linthresh=1)
        most = max(max(values, default=0) for values in counts.values())
        axes.set(ylim=(0, 3 * max(1, most)), ylabel="non-zeros")
        axes.set_xticks(places, layers, rotation=90 if crowded else 0, fontsize=8 if crowded else None)
        clean(axes)
        if len(counts) > 1:
            legend_outside(axes)
