"""Accuracy over sparsity for many methods, one panel for each kind of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.report.canvas import INK, PALETTE, QUIET, clean, two_panels

__all__ = ["Line", "Panel", "draw_tradeoff"]


@dataclass(frozen=True)
class Line:
    """One method: its accuracies in per cent, with their spread over repetitions.

    ``family`` gives the colour, the first of all is ours and drawn strongest; ``dashed`` tells variants apart.
    """

    label: str
    family: str
    values: Sequence[float]
    spreads: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One kind of accuracy, in per cent, with that of the baseline."""

    title: str
    baseline: float
    lines: Sequence[Line]


def draw_tradeoff(path: Path, sparsities: Sequence[float], panels: tuple[Panel, Panel]) -> None:
    """Write a PNG: two panels with the same lines; shades are one standard deviation.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    families = list(dict.fromkeys(line.family for line in panels[0].lines))
    colours = {family: (INK, *PALETTE)[number % (1 + len(PALETTE))] for number, family in enumerate(families)}
    with two_panels(path, (1, 1)) as axes:
        for each, panel in zip(axes, panels, strict=True):
            _draw(each, list(sparsities), panel, colours)
        axes[0].set_ylabel("accuracy, %")
        # Above the attacked accuracies, which are the low ones.
        axes[1].legend(frameon=False, fontsize=7, loc="upper right", ncol=2, handlelength=3.2, columnspacing=1.2)


def _draw(axes: Any, x: Sequence[float], panel: Panel, colours: dict[str, str]) -> None:
    # Equal steps, for what happens does so at the sparse end.
    places = list(range(len(x)))
    axes.axhline(panel.baseline, color=QUIET, linestyle=(0, (1, 2)), linewidth=1.2)
    axes.annotate(
        "baseline",
        (1.0, panel.baseline),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=QUIET,
        fontsize=8,
    )
    for number, line in enumerate(panel.lines):
        ours, colour = number == 0, colours[line.family]
        style = {"linestyle": (0, (4, 3)) if line.dashed else "-", "zorder": 5 if ours else 3}
        axes.plot(
            places,
            line.values,
            color=colour,
            marker="o",
            markersize=5 if ours else 3,
            linewidth=2.6 if ours else 1.4,
            label=line.label,
            **style,
        )
        low, high = (
            [value + sign * spread for value, spread in zip(line.values, line.spreads, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_title(panel.title)
    axes.set_xlabel("sparsity, % of the baseline's weights")
    axes.set_xticks(places, [f"{value:g}" for value in x])
    axes.set_ylim(0, 100)
    clean(axes)
