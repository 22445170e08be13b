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
    is_narrow,
    legend_outside,
    note,
    one_panel,
    two_panels,
)
from simplicit.report.patterns import draw_pattern

_SPARSITY = "sparsity, % of the baseline's weights"
# So many points have room for their numbers, on wide screens and on narrow ones.
_MOST_LABELS, _MOST_LABELS_NARROW = 20, 9
# Points closer than this share of the axis have no room for their names beside each other.
_CLOSE = 0.12


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
    names : sequence of str
        What each point is, to be written at it; empty for none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    baseline: float | None = None
    spread: Sequence[float] = ()
    family: str = ""
    dashed: bool = False
    names: Sequence[str] = ()

    @property
    def kin(self) -> str:
        """The family, or the line's own name."""
        return self.family or self.label


@dataclass(frozen=True)
class Bounds:
    """What is known of one model's accuracy at some radii, shares in [0, 1].

    Attributes
    ----------
    label : str
    clean : float
        At radius 0.
    attacked : sequence of float, optional
        What attacks leave: no less is known than that the true robust accuracy is at most this.
    certified : sequence of float, optional
        What is proved: the true robust accuracy is at least this.
    """

    label: str
    clean: float
    attacked: Sequence[float] | None = None
    certified: Sequence[float] | None = None


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

    Points are of different networks, so that nothing joins them; the names of a line are written at its points.
    ``shares`` is what the lines are shares of, where they are others.
    """
    with one_panel(path) as axes:
        for line, colour, marker in zip(lines, PALETTE, MARKERS, strict=False):
            axes.plot(
                line.x, 100 * np.asarray(line.y), marker, color=colour, label=line.label, markersize=7, clip_on=False
            )
            if line.baseline is not None:
                dashed_line(axes, 100 * line.baseline, colour=colour)
        if any(line.baseline is not None for line in lines):
            axes.plot([], [], color=QUIET, linestyle=DASHES, linewidth=1.2, label="baseline")
        sparsities = [value for line in lines for value in line.x]
        least, most = min(sparsities), max(sparsities)
        room = max(2.0, 0.08 * (most - least))
        axes.set_xlim(max(least - room, min(0.0, least)), min(most + room, 100))
        axes.xaxis.get_major_locator().set_params(integer=True)
        _accuracy_axis(axes, "", _SPARSITY)
        axes.set_ylabel(f"{shares}, %")
        for line in lines:
            _name_points(axes, line)
        legend_outside(axes)


def _name_points(axes: Any, line: Line) -> None:
    """Write the names of points below them, of close neighbours lower and lower."""
    least, most = axes.get_xlim()
    order, level = sorted(range(len(line.names)), key=lambda i: line.x[i]), 0
    for before, place in zip([None, *order], order, strict=False):
        close = before is not None and line.x[place] - line.x[before] < _CLOSE * (most - least)
        level = (level + 1) % 4 if close else 0
        at = line.x[place], 100 * line.y[place]
        note(axes, line.names[place], at, (0, -8 - 11 * level), ha="center", fontsize=8, color=INK)


def draw_robustness(path: Path, radii: Sequence[str], models: Sequence[Bounds], *, title: str) -> None:
    """Write a PNG: what is known of accuracies at each of the ``radii``, in their order, one colour for each model.

    Each model has markers of its own: a triangle that points down is what attacks leave, one that points up what is
    proved, and the bar between them is where its true robust accuracy lies. Nothing is measured between two radii, so
    that nothing is drawn there; they stand in equal steps.
    """
    colours = _colours([model.label for model in models], QUIET if len(models) > 1 else None)
    width = min(0.2, 0.8 / max(1, len(models)))
    labelled = len(models) * (len(radii) + 1) <= (_MOST_LABELS_NARROW if is_narrow() else _MOST_LABELS)
    with one_panel(path) as axes:
        for number, model in enumerate(models):
            shift = (number - (len(models) - 1) / 2) * width
            _draw_bounds(axes, model, shift, colours[model.label], labelled=labelled)
        if any(model.attacked is not None for model in models):
            axes.plot([], [], "v", color=INK, label="attacks leave: at most")
        if any(model.certified is not None for model in models):
            axes.plot([], [], "^", color=INK, label="certified: at least")
        axes.set_xticks(range(len(radii) + 1), ["0", *radii])
        axes.set_xlim(-0.5, len(radii) + 0.5)
        _accuracy_axis(axes, title, "ε, largest change of an input")
        legend_outside(axes)


def _draw_bounds(axes: Any, model: Bounds, shift: float, colour: str, *, labelled: bool) -> None:
    """Draw one model at all radii, ``shift`` beside them."""
    style = {"color": colour, "markersize": 7, "clip_on": False, "zorder": 3}
    axes.plot([shift], [100 * model.clean], "o", label=model.label, **style)
    sides = [(model.attacked, "v", 7), (model.certified, "^", -7)]
    for values, marker, above in sides:
        for place, value in enumerate(values or (), start=1):
            axes.plot([place + shift], [100 * value], marker, **style)
            if labelled:
                at = place + shift, 100 * value
                note(axes, f"{100 * value:.0f}", at, (0, above), ha="center", fontsize=8, color=colour)
    if labelled:
        at = shift, 100 * model.clean
        note(axes, f"{at[1]:.0f}", at, (0, 7), ha="center", fontsize=8, color=colour)
    if model.attacked is not None and model.certified is not None:
        for place, (high, low) in enumerate(zip(model.attacked, model.certified, strict=True), start=1):
            axes.plot([place + shift] * 2, [100 * low, 100 * high], color=colour, linewidth=3, alpha=0.35)


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
