"""Pictures of how fast ways to run a network are, over the samples of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.report.canvas import MARKERS, PALETTE, clean, dashed_line, is_narrow, legend_outside, two_panels


@dataclass(frozen=True)
class SpeedLine:
    """A way to run a network, at some batch sizes.

    Attributes
    ----------
    label : str
    batches : sequence of int
    median, lower, upper : sequence of float
        Seconds of a call: their median and their quartiles.
    ratio : sequence of float
        How many times as fast it is as the first line.
    """

    label: str
    batches: Sequence[int]
    median: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]
    ratio: Sequence[float]


def draw_speed(path: Path, lines: Sequence[SpeedLine]) -> None:
    """Write a PNG with two panels: milliseconds of a call with quartiles, and how many times as fast as the first."""
    batches = sorted({batch for line in lines for batch in line.batches})
    with two_panels(path, (1, 1)) as (left, right):
        for number, line in enumerate(lines):
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6, "linewidth": 2}
            low, middle, high = 1e3 * np.array([line.lower, line.median, line.upper])
            quartiles = np.stack([middle - low, high - middle])
            left.errorbar(line.batches, middle, yerr=quartiles, elinewidth=1, capsize=3, label=line.label, **style)
            if number:
                right.plot(line.batches, line.ratio, **style)
        left.set(title="Time of a call: median, quartiles", ylabel="milliseconds", yscale="log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
        left.minorticks_off()
        if is_narrow():
            legend_outside(left)
        else:
            left.legend(frameon=False, loc="upper left")
        right.set(title=f"Speed, {lines[0].label} = 1", ylabel="times as fast")
        dashed_line(right, 1.0, colour=PALETTE[0])
        right.set_ylim(0, 1.15 * max(1.0, *(ratio for line in lines for ratio in line.ratio)))
        for axes in (left, right):
            axes.set(xscale="log", xlabel="samples in a call")
            axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
            axes.set_xticks([], minor=True)
            clean(axes)
