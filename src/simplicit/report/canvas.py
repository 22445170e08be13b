"""Figures that touch nothing of matplotlib's global state, and what all pictures share: colours, axes, dashed lines.

A page shows each picture on wide screens and on phones. Shrunk to a phone the letters of a wide one are six pixels
high; so that one is drawn :func:`twice`, the second time :func:`narrow`: panels below each other, in the width at which
a phone shows letters as large as those of the page.

Pictures need the extra ``report``; without matplotlib every one raises MissingExtraError.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from simplicit.errors import MissingExtraError
from simplicit.files import drafted

#: Okabe and Ito's, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00")
PALETTE = (*COLOURS, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, QUIET, GRID, EDGE = "#222222", "#6b6b6b", "#e6e6e6", "#bdbdbd"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = (0, (4, 3))
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


#: Inches that a narrow picture is wide, and high at most; a phone's 350 pixels show its 9 points as 10 pixels.
_NARROW = (4.2, 3.4)
_IS_NARROW: ContextVar[bool] = ContextVar("is_narrow", default=False)


def can_draw() -> bool:
    """Whether the extra ``report``, which draws the pictures, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def is_narrow() -> bool:
    """Whether what is drawn now is for a narrow screen."""
    return _IS_NARROW.get()


def narrow_path(path: Path) -> Path:
    """Where the narrow rendition of a picture lies: ``frontier.png`` has ``frontier-narrow.png``."""
    return path.with_stem(f"{path.stem}-narrow")


def twice(draw: Callable[[Path], None], path: Path) -> None:
    """Write a picture, and its narrow rendition at :func:`narrow_path`."""
    draw(path)
    token = _IS_NARROW.set(True)
    try:
        draw(narrow_path(path))
    finally:
        _IS_NARROW.reset(token)


@contextmanager
def one_panel(path: Path, height: float | None = None) -> Iterator[Any]:
    """Yield axes; what is drawn on them in the block is written to the PNG ``path`` at its end, whole or not at all.

    The ``height`` in inches is the same for wide and narrow screens, where it is given.
    """
    with panels(path, 1, 1, (7.5, 4.6), height=height) as (axes,):
        yield axes


@contextmanager
def two_panels(path: Path, width_ratios: tuple[float, float]) -> Iterator[Any]:
    """Yield two axes side by side, as :func:`one_panel` does one."""
    with panels(path, 2, 2, (5.0, 4.2), width_ratios) as both:
        yield both


@contextmanager
def panels(
    path: Path,
    count: int,
    columns: int,
    size: tuple[float, float],
    width_ratios: Sequence[float] | None = None,
    *,
    height: float | None = None,
    small: bool = False,
) -> Iterator[Any]:
    """Yield ``count`` axes of ``size`` inches each, row after row of ``columns`` of them, as :func:`one_panel` does.

    On narrow screens there is one of them in a row, unless they are ``small``.
    """
    if is_narrow() and not small:
        columns, width_ratios, size = 1, None, (_NARROW[0], min(size[1], _NARROW[1]))
    size = size if height is None else (size[0], height)
    columns = min(columns, count)
    rows = -(-count // columns)
    with _figure(path, (size[0] * columns, size[1] * rows)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios).ravel()
        for unused in grid[count:]:
            unused.set_axis_off()
        yield grid[:count]


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'simplicit[report]'") from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.06))
        FigureCanvasAgg(figure)
        yield figure
        with drafted(path) as draft:
            figure.savefig(draft, format="png", dpi=160, facecolor="white")


def clean(axes: Any) -> None:
    """Leave horizontal grid lines behind the data and no frame but the x axis."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, which="both")


def dashed_line(axes: Any, value: float, text: str = "", *, colour: str = QUIET, below: bool = False) -> None:
    """Draw a horizontal line to compare with; ``text`` stands at its right end, above or below it."""
    axes.axhline(value, color=colour, linestyle=DASHES, linewidth=1.2, alpha=0.8)
    style = {"xycoords": ("axes fraction", "data"), "ha": "right", "color": colour, "fontsize": 9}
    note(axes, text, (1.0, value), (-2, -4 if below else 4), **style)


def note(axes: Any, text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """Write ``text`` at a place, shifted by some points: below the place if it is shifted down, else above it."""
    va = "top" if shift[1] < 0 else "bottom"
    axes.annotate(text, at, xytext=shift, textcoords="offset points", va=va, **style)


def legend_outside(axes: Any) -> None:
    """Put the legend to the right of the axes, or below the picture where the screen is narrow."""
    if is_narrow():
        figure = axes.get_figure()
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower left", fontsize=9)
    else:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
