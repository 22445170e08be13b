"""Pictures of accuracy: over sparsity, beside the pattern of a model or of other methods, and over the radius ε."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.implicit import ImplicitModel
from simplicit.report.canvas import (
    DASHES,
    INK,
    MARKERS,
    PALETTE,
    QUIET,
    clean,
    dashed_line,
    legend_outside,
    one_panel,
    two_panels,
)
from simplicit.report.patterns import draw_pattern

_SPARSITY = "sparsity, % of the baseline's weights"
# Radii closer than this share of the largest have no room for labels of their own.
_CROWDED = 0.055


@dataclass(frozen=True)
class Line:
    """A named line of accuracies, with what it is compared with.

    Attributes
    ----------
    label : str
    x : sequence of float
        Sparsities in per cent, or radii.
    y : sequence of float
        Accuracies, shares in [0, 1].
    baseline : float or None
        The baseline's accuracy, drawn dashed.
    spread : sequence of float
        One standard deviation of each accuracy, drawn as a shade; empty for none.
    family : str
        Lines of one family share their colour; each is its own if left out.
    dashed : bool
        Tells variants in a family apart.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    baseline: float | None = None
    spread: Sequence[float] = ()
    family: str = ""
    dashed: bool = False

    @property
    def kin(self) -> str:
        """The family, or the line's own name."""
        return self.family or self.label


def robust_lines(
    name: str,
    radii: Sequence[float],
    clean: float,
    *,
    certified: Sequence[float] | None = None,
    attacked: Sequence[float] | None = None,
) -> list[Line]:
    """Return one model's lines over the radii, from its clean accuracy at 0: what attacks leave, what is proved."""
    x, both = [0.0, *radii], certified is not None and attacked is not None
    lines = []
    for values, kind in ((attacked, "attacked"), (certified, "certified")):
        if values is not None:
            label = f"{name}, {kind}" if both else name
            lines.append(Line(label, x, [clean, *values], family=name, dashed=both and kind == "attacked"))
    return lines


def draw_frontier(path: Path, lines: Sequence[Line], model: ImplicitModel, *, title: str) -> None:
    """Write a PNG with two panels: accuracies over sparsity, and under ``title`` the pattern of a model.

    Each line has its baseline, dashed; one without is what others are compared with, in grey. The pattern is the
    non-zeros of M = [[A, B], [C, D]], its blocks outlined.
    """
    with two_panels(path, (1.15, 1)) as (left, right):
        for line, colour, marker in zip(lines, PALETTE, MARKERS, strict=False):
            x, y = _ordered(line)
            compared = line.baseline is None
            if line.baseline is not None:
                # At the foot of the axis the word goes above the line.
                dashed_line(left, 100 * line.baseline, "baseline", colour=colour, below=line.baseline >= 0.08)
            left.plot(
                x,
                y,
                color=QUIET if compared else colour,
                marker=marker,
                markersize=5 if compared else 6,
                linewidth=1.4 if compared else 2,
                label=line.label,
                clip_on=False,
            )
        left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(lines), fontsize=8)
        sparsities = sorted({value for line in lines for value in line.x})
        left.set_xticks(sparsities, [f"{value:.0f}" for value in sparsities])
        _accuracy_axis(left, "Accuracy on test samples", _SPARSITY)
        left.set_ylim(0, 102)
        draw_pattern(right, model, title)


def draw_series(path: Path, lines: Sequence[Line], shares: str = "accuracy") -> None:
    """Write a PNG: accuracies of single models over their sparsity, one colour for each kind, the baseline's dashed.

    ``shares`` is what the lines are shares of, where they are others.
    """
    with one_panel(path) as axes:
        for line, colour, marker in zip(lines, PALETTE, MARKERS, strict=False):
            x, y = _ordered(line)
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.35)
            axes.plot(x, y, marker, color=colour, label=line.label, markersize=7, clip_on=False, zorder=3)
            if line.baseline is not None:
                dashed_line(axes, 100 * line.baseline, colour=colour)
        if any(line.baseline is not None for line in lines):
            axes.plot([], [], color=QUIET, linestyle=DASHES, linewidth=1.2, label="baseline")
        sparsities = [value for line in lines for value in line.x]
        least, most = min(sparsities), max(sparsities)
        room = max(2.0, 0.08 * (most - least))
        axes.set_xlim(max(least - room, min(0.0, least)), min(most + room, 100))
        axes.xaxis.set_major_formatter("{x:g}")
        _accuracy_axis(axes, "", _SPARSITY)
        axes.set_ylabel(f"{shares}, %")
        legend_outside(axes)


def draw_robustness(path: Path, radii: Mapping[str, float], lines: Sequence[Line], *, title: str) -> None:
    """Write a PNG: accuracy over ε, one colour for each model, the first in grey.

    The ``radii`` are named by how they are to be written; the lines are those of :func:`robust_lines`, for at least one
    model. The true robust accuracy of a model lies in the shade between its two lines.
    """
    order = sorted(radii, key=lambda text: radii[text])
    x = [0.0, *(radii[text] for text in order)]
    families = [line.kin for line in lines]
    colours = _colours(families, QUIET if len({*families}) > 1 else None)
    with one_panel(path) as axes:
        for (family, colour), marker in zip(colours.items(), MARKERS, strict=False):
            of_family = [line for line in lines if line.kin == family]
            for line in of_family:
                _plot(axes, line, colour, marker=marker, markersize=5, linewidth=2, clip_on=False)
            if len(of_family) == 2:
                high, low = (100 * np.asarray(line.y) for line in of_family)
                axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.set_xticks(x, _spaced(x, ["0", *order]))
        axes.set_xlim(0, max(x[-1], 1e-12) * 1.02)
        _accuracy_axis(axes, title, "ε, largest change of an input")
        legend_outside(axes)


def draw_tradeoff(path: Path, panels: Mapping[str, Sequence[Line]]) -> None:
    """Write a PNG with two panels, by their titles: accuracies of many methods over sparsity.

    Both have the same lines; the first line is ours and drawn strongest, and its baseline is that of the panel.
    Shades are one standard deviation.
    """
    strong, light = {"markersize": 5, "linewidth": 2.6, "zorder": 5}, {"markersize": 3, "linewidth": 1.4}
    with two_panels(path, (1, 1)) as axes:
        for each, (title, lines) in zip(axes, panels.items(), strict=True):
            colours = _colours([line.kin for line in lines], INK)
            # Equal steps, for what happens does so at the sparse end.
            places = range(len(lines[0].x))
            if lines[0].baseline is not None:
                dashed_line(each, 100 * lines[0].baseline, "baseline")
            for line in lines:
                style = strong if line is lines[0] else light
                _plot(each, line, colours[line.kin], places, marker="o", **style)
            each.set_xticks(places, [f"{value:g}" for value in lines[0].x])
            _accuracy_axis(each, title, _SPARSITY)
        axes[1].set_ylabel("")
        # Above the attacked accuracies, which are the low ones.
        axes[1].legend(frameon=False, fontsize=7, loc="upper right", handlelength=3.2)


def _plot(axes: Any, line: Line, colour: str, x: Sequence[float] | None = None, **style: Any) -> None:
    """Draw a line and its spread, at other places than its own if they are given."""
    x, y = line.x if x is None else x, 100 * np.asarray(line.y)
    axes.plot(x, y, color=colour, linestyle=DASHES if line.dashed else "-", label=line.label, **style)
    if line.spread:
        spread = 100 * np.asarray(line.spread)
        axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.12, linewidth=0)


def _ordered(line: Line) -> tuple[Any, Any]:
    """Return places and per cents of a line from left to right."""
    x, y = np.array(sorted(zip(line.x, line.y, strict=True))).T
    return x, 100 * y


def _colours(families: Sequence[str], first: str | None) -> dict[str, str]:
    """Return a colour for each family, that of the first one if it is given."""
    palette = PALETTE if first is None else (first, *PALETTE)
    return {family: palette[number % len(palette)] for number, family in enumerate(dict.fromkeys(families))}


def _accuracy_axis(axes: Any, title: str, label: str) -> None:
    axes.set(title=title, xlabel=label, ylabel="accuracy, %", ylim=(0, 100), yticks=range(0, 101, 20))
    clean(axes)


def _spaced(x: Sequence[float], names: Sequence[str]) -> list[str]:
    """Return the names, empty where one would run into the one before."""
    shown, last = [], -1.0
    for at, name in zip(x, names, strict=True):
        crowded = at - last < _CROWDED * x[-1] and last >= 0
        shown.append("" if crowded else name)
        last = last if crowded else at
    return shown
