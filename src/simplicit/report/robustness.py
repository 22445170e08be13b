"""Accuracy over the radius of the box: what is proved, what attacks leave, and what lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.report.canvas import PALETTE, QUIET, clean, one_panel

__all__ = ["RobustCurve", "draw_robustness"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Radii closer than this share of the largest have no room for labels of their own.
_CROWDED = 0.055


@dataclass(frozen=True)
class RobustCurve:
    """One model's accuracies in per cent: clean, and for every radius certified and attacked, where they are known."""

    label: str
    clean: float
    certified: Sequence[float] | None = None
    attacked: Sequence[float] | None = None


def draw_robustness(path: Path, radii: Mapping[str, float], curves: Sequence[RobustCurve], *, title: str) -> None:
    """Write a PNG: one colour for each model, the first in grey; the true robust accuracy lies in the shade.

    Parameters
    ----------
    path : Path
    radii : mapping of str to float
        By how they are to be written.
    curves : sequence of RobustCurve
        At least one, each with certified or attacked accuracies.
    title : str

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    order = sorted(radii, key=lambda text: radii[text])
    x = [0.0, *(radii[text] for text in order)]
    with one_panel(path) as axes:
        for number, curve in enumerate(curves):
            colour = QUIET if number == 0 and len(curves) > 1 else PALETTE[(number - 1) % len(PALETTE)]
            _draw(axes, x, curve, colour, _MARKERS[number % len(_MARKERS)])
        axes.set_title(title)
        axes.set_xlabel("ε, largest change of an input")
        axes.set_ylabel("accuracy, %")
        axes.set_xticks(x, _labels(x, ["0", *order]))
        axes.set_xlim(0, max(x[-1], 1e-12) * 1.02)
        axes.set_ylim(0, 100)
        axes.set_yticks(range(0, 101, 20))
        clean(axes)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _labels(x: Sequence[float], names: Sequence[str]) -> list[str]:
    """Empty where a label would run into the one before."""
    shown, last = [], -1.0
    for at, name in zip(x, names, strict=True):
        crowded = at - last < _CROWDED * x[-1] and last >= 0
        shown.append("" if crowded else name)
        last = last if crowded else at
    return shown


def _draw(axes: Any, x: Sequence[float], curve: RobustCurve, colour: str, marker: str) -> None:
    both = curve.certified is not None and curve.attacked is not None
    style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 2, "clip_on": False}
    lines = []
    if curve.attacked is not None:
        lines.append((curve.attacked, "attacked", (0, (4, 3)) if both else "-"))
    if curve.certified is not None:
        lines.append((curve.certified, "certified", "-"))
    for values, kind, dashes in lines:
        label = f"{curve.label}, {kind}" if both else curve.label
        axes.plot(x, [curve.clean, *values], linestyle=dashes, label=label, **style)
    if both:
        high, low = ([curve.clean, *values] for values, _, _ in lines)
        axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
