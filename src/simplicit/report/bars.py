"""Bars of seconds: which executor takes how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.report.canvas import COLOURS, INK, QUIET, clean, two_panels

__all__ = ["Bars", "draw_bars"]


@dataclass(frozen=True)
class Bars:
    """One panel: a bar of seconds for each name.

    Parameters
    ----------
    title : str
    names, seconds : sequences of equal length
        The first is what the others are compared with.
    fixed : sequence of float, optional
        The part of each bar that would be there without any work.
    """

    title: str
    names: Sequence[str]
    seconds: Sequence[float]
    fixed: Sequence[float] = ()


def draw_bars(path: Path, left: Bars, right: Bars) -> None:
    """Write a PNG with two panels of bars; on each bar stand its seconds, and how many times faster than the first.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with two_panels(path, (1, 1)) as panels:
        for axes, bars in zip(panels, (left, right), strict=True):
            _draw(axes, bars)


def _draw(axes: Any, bars: Bars) -> None:
    places = range(len(bars.names))
    colours = [COLOURS[1], *[COLOURS[0]] * (len(places) - 1)]
    axes.bar(places, bars.seconds, width=0.62, color=colours)
    if bars.fixed:
        shown = [min(part, whole) for part, whole in zip(bars.fixed, bars.seconds, strict=True)]
        axes.bar(places, shown, width=0.62, color="white", alpha=0.55)
        axes.annotate(
            "pale: fixed cost",
            (0, 1),
            xycoords="axes fraction",
            xytext=(2, -10),
            textcoords="offset points",
            color=QUIET,
            fontsize=9,
        )
    for place, seconds in enumerate(bars.seconds):
        note = f"× {bars.seconds[0] / seconds:.2f}" if place else ""
        for text, above, colour, weight in ((f"{seconds:.3g} s", 16, INK, "bold"), (note, 4, QUIET, "normal")):
            axes.annotate(
                text,
                (place, seconds),
                xytext=(0, above if place else 4),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontweight=weight,
            )
    clean(axes)
    axes.set_xticks(places, bars.names, color=INK)
    axes.set_ylim(0, max(bars.seconds) * 1.2)
    axes.set_ylabel("wall-clock seconds")
    axes.set_title(bars.title)
