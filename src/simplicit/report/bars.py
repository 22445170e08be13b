"""Pictures with bars and rows of points: how long each executor takes, and what each layer kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplicit.report.canvas import (
    COLOURS,
    GRID,
    INK,
    MARKERS,
    PALETTE,
    QUIET,
    clean,
    legend_outside,
    one_panel,
    two_panels,
)

# Inches for the line of a layer.
_ROW = 0.3


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


def draw_layers(path: Path, layers: Sequence[str], shares: Mapping[str, Sequence[float | None]]) -> None:
    """Write a PNG: the share of its weights that each layer kept, the first layer on top, one colour for each run.

    ``shares`` in [0, 1] are by run, None for a layer that a run has not.
    """
    with one_panel(path, height=1.1 + _ROW * max(3, len(layers))) as axes:
        for number, (name, values) in enumerate(shares.items()):
            known = [(100 * value, place) for place, value in enumerate(values) if value is not None]
            x, y = zip(*known, strict=True) if known else ((), ())
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            axes.plot(x, y, marker, color=colour, markersize=7, label=name, clip_on=False, zorder=3)
            for value, place in known if len(shares) == 1 else ():
                left = value > 88  # at the end of the axis the number goes before the point
                style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": QUIET}
                style |= {"ha": "right" if left else "left", "xytext": (-8 if left else 8, 0)}
                axes.annotate(f"{value:.3g}", (value, place), **style)
        axes.set(xlim=(0, 100), ylim=(len(layers) - 0.5, -0.5), xlabel="weights kept, %")
        axes.set_yticks(range(len(layers)), layers)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
        axes.grid(axis="both", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if len(shares) > 1:
            legend_outside(axes)
