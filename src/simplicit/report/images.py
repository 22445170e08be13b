"""Pictures of attacked samples that are images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simplicit.report.canvas import COLOURS, INK, is_narrow, panels

#: So many samples have room on a narrow screen.
_NARROW = 4


@dataclass(frozen=True)
class Attacked:
    """What one model makes of some samples: ``inputs`` (k, p), and the classes ``given`` (k,), right or wrong."""

    label: str
    inputs: npt.NDArray[np.float32]
    given: npt.NDArray[np.int64]


def draw_attacked(
    path: Path,
    shape: tuple[int, ...],
    labels: npt.NDArray[np.int64],
    rows: Sequence[Attacked],
    names: Sequence[str] = (),
) -> None:
    """Write a PNG: samples in columns; each row as one model meets them, with the class that it gives.

    A sample has the ``shape`` (height, width), (1, height, width) or (3, height, width); ``labels`` (k,) are true, and
    ``names`` those of the classes, if they have any. On narrow screens there are the first samples alone.
    """
    count = min(len(labels), _NARROW) if is_narrow() else len(labels)
    size = (0.88, 1.05) if is_narrow() else (1.35, 1.5)
    with panels(path, len(rows) * count, count, size, small=True) as found:
        for place, axes in enumerate(found):
            row, column = rows[place // count], place % count
            image = row.inputs[column].reshape(shape)
            image = image.transpose(1, 2, 0) if image.ndim == 3 and shape[0] in (3, 4) else image.reshape(shape[-2:])
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            right = row.given[column] == labels[column]
            mark, colour = ("✓", COLOURS[0]) if right else ("✗", COLOURS[1])
            given = int(row.given[column])
            text = names[given] if given < len(names) else f"class {given}"
            axes.set_title(f"{mark} {text}", fontsize=7 if is_narrow() else 9, color=colour, loc="center")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(row.label, color=INK, fontsize=9, rotation=0, ha="right", va="center")
