"""Pictures of accuracy: readable PNGs, whole or not at all, and a clear word where matplotlib is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simplicit.errors import MissingExtraError
from simplicit.implicit import ImplicitModel
from simplicit.report import (
    Bounds,
    Line,
    draw_frontier,
    draw_layers,
    draw_robustness,
    draw_series,
    draw_tradeoff,
    twice,
)

A = np.triu(np.ones((4, 4)), 1) * 0.1
MODEL = ImplicitModel.from_matrices(A, np.ones((4, 3)), np.ones((2, 4)), np.zeros((2, 3)))
LINES = (Line("clean", [50, 80], [0.97, 0.90], 0.98), Line("PGD-20, ε = 0.1", [50, 80], [0.5, 0.6], 0.4))
RADII = {"0.004": 0.004, "8/255": 8 / 255}
#: Clean, certified and attacked.
MODELS = {"baseline": (0.89, [0.80, 0.03], [0.84, 0.35]), "runs/fit": (0.88, [0.82, 0.30], [0.85, 0.50])}
PNG = b"\x89PNG\r\n\x1a\n"


def draw(path: Path) -> None:
    draw_frontier(path, LINES, MODEL, title="Non-zeros of M")


def test_png_of_the_right_size_with_both_colours(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    before = dict(mpl.rcParams)
    draw(tmp_path / "p.png")
    assert dict(mpl.rcParams) == before
    pixels = mpl.image.imread(tmp_path / "p.png")[:, :, :3]
    assert pixels.shape[1] == 1600
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(pixels * 255 - colour).max(axis=2) < 2).sum() > 500
    assert (pixels == 1).all(axis=2).mean() > 0.5


def test_pattern_follows_the_matrix(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    draw(tmp_path / "p.png")
    right = mpl.image.imread(tmp_path / "p.png")[:, 800:, :3]
    blue = (np.abs(right * 255 - (0x00, 0x72, 0xB2)).max(axis=2) < 2).sum()
    dark = MODEL.nnz / MODEL.size
    rows = np.flatnonzero((right < 0.5).all(axis=2).sum(axis=1) > 300)  # the frame and the border below A
    columns = np.flatnonzero((right < 0.5).all(axis=2).sum(axis=0) > 300)
    area = np.ptp(rows) * np.ptp(columns)
    assert blue / area == pytest.approx(dark, abs=0.05)


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simplicit\[report\]'"):
        draw(tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_half_a_picture_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure")

    def full(_: object, path: Path, **options: object) -> None:
        path.write_bytes(PNG)
        raise OSError("no space")

    monkeypatch.setattr(figure.Figure, "savefig", full)
    with pytest.raises(OSError, match="no space"):
        draw(tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_accuracies_are_drawn_in_per_cent(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    draw_series(tmp_path / "p.png", [Line("clean", [60, 20], [1.0, 0.0])])
    pixels = mpl.image.imread(tmp_path / "p.png")[:, :, :3]
    rows = np.flatnonzero((np.abs(pixels * 255 - (0x00, 0x72, 0xB2)).max(axis=2) < 2).any(axis=1))
    assert np.ptp(rows) > 0.75 * len(pixels)  # from the foot of the axis to its top


def bounds(kinds: str) -> list[Bounds]:
    return [
        Bounds(
            name,
            clean,
            attacked=None if kinds == "certified" else attacked,
            certified=None if kinds == "attacked" else certified,
        )
        for name, (clean, certified, attacked) in MODELS.items()
    ]


def drawn(draw: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, path: Path) -> Any:
    """The axes that a picture is drawn on."""
    axes = pytest.importorskip("matplotlib.axes")
    found: list[Any] = []
    plain = axes.Axes.plot

    def plot(self: Any, *args: Any, **options: Any) -> Any:
        found.append(self)
        return plain(self, *args, **options)

    monkeypatch.setattr(axes.Axes, "plot", plot)
    draw(path)
    assert path.read_bytes()[:8] == PNG
    return found[0]


@pytest.mark.parametrize("kinds", ["both", "certified", "attacked"])
def test_nothing_is_drawn_between_radii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: str) -> None:
    radii, models = [*RADII], bounds(kinds)
    axes = drawn(lambda path: draw_robustness(path, radii, models, title="T"), monkeypatch, tmp_path / "p.png")
    for line in axes.get_lines():
        x = np.asarray(line.get_xdata(), dtype=float)
        assert len(x) <= 1 or np.ptp(x) == 0.0, "a line goes from one radius to another"
        assert len(x) <= 1 or kinds == "both", "a bar where one side alone is known"
    down = [line for line in axes.get_lines() if line.get_marker() == "v" and len(line.get_xdata())]
    up = [line for line in axes.get_lines() if line.get_marker() == "^" and len(line.get_xdata())]
    assert len(down) == (0 if kinds == "certified" else len(radii) * len(models))
    assert len(up) == (0 if kinds == "attacked" else len(radii) * len(models))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", *radii]


def test_points_of_different_networks_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("clean", [60, 20, 90], [0.8, 0.95, 0.3], 0.97, names=["a", "b", "c"])
    axes = drawn(lambda path: draw_series(path, [line]), monkeypatch, tmp_path / "p.png")
    points = next(one for one in axes.get_lines() if one.get_label() == "clean")
    assert points.get_linestyle() == "None"
    assert {text.get_text(): text.xy for text in axes.texts if text.get_text()} == {
        "a": (60, 80.0),
        "b": (20, 95.0),
        "c": (90, 30.0),
    }


def test_one_model_and_radius_zero(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_robustness(tmp_path / "p.png", ["0"], [Bounds("baseline", 0.89, certified=[0.89])], title="")
    assert (tmp_path / "p.png").exists()


def test_layers_show_the_share_that_they_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"one": [0.2, 1.0, None], "two": [0.5, None, 0.0]}
    axes = drawn(lambda path: draw_layers(path, ["a", "b", "c"], shares), monkeypatch, tmp_path / "p.png")
    found = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines()}
    assert found == {"one": (20.0, 100.0, 0, 1), "two": (50.0, 0.0, 0, 2)}
    assert axes.get_ylim() == (2.5, -0.5)  # the first layer on top
    assert axes.get_xlim() == (0.0, 100.0)


def test_a_narrow_rendition_has_letters_of_a_readable_size(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    twice(lambda path: draw_series(path, [Line("clean", [60, 20], [1.0, 0.0])]), tmp_path / "p.png")
    wide, narrow = (mpl.image.imread(tmp_path / name).shape[1] for name in ("p.png", "p-narrow.png"))
    # On a phone 350 pixels are the width of the picture, and 9 points of it so many pixels high, at 160 dots an inch.
    assert [350 / width * 160 * 9 / 72 > 9 for width in (wide, narrow)] == [False, True]


def test_methods_of_one_family_share_a_colour(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    ours = Line("ours", [50, 90], [0.9, 0.8], 0.95, [0.01, 0.02])
    peers = [
        Line(name, [50, 90], [0.8, y], 0.95, family="alps", dashed=y < 0.5) for name, y in (("a", 0.6), ("b", 0.3))
    ]
    draw_tradeoff(tmp_path / "p.png", {"Clean": [ours, *peers], "PGD": [ours, *peers]})
    pixels = mpl.image.imread(tmp_path / "p.png")[:, :, :3]
    for colour, there in (((0x00, 0x72, 0xB2), True), ((0xD5, 0x5E, 0x00), False), ((0x22, 0x22, 0x22), True)):
        assert bool((np.abs(pixels * 255 - colour).max(axis=2) < 2).sum() > 200) == there
