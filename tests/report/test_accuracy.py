"""Pictures of accuracy: readable PNGs, whole or not at all, and a clear word where matplotlib is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from simplicit.errors import MissingExtraError
from simplicit.implicit import ImplicitModel
from simplicit.report import Line, draw_frontier, draw_robustness, draw_series, draw_tradeoff, robust_lines
from simplicit.report.accuracy import _spaced

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


@pytest.mark.parametrize("kinds", ["both", "certified", "attacked"])
def test_accuracy_over_radii(tmp_path: Path, kinds: str) -> None:
    pytest.importorskip("matplotlib")
    lines = [
        line
        for name, (clean, certified, attacked) in MODELS.items()
        for line in robust_lines(
            name,
            [*RADII.values()],
            clean,
            certified=None if kinds == "attacked" else certified,
            attacked=None if kinds == "certified" else attacked,
        )
    ]
    names = [f"{name}, {kind}" for name in MODELS for kind in ("attacked", "certified")]
    assert [line.label for line in lines] == (names if kinds == "both" else [*MODELS])
    assert all(line.x == [0.0, *RADII.values()] and line.y[0] == MODELS[line.family][0] for line in lines)
    draw_robustness(tmp_path / "p.png", RADII, lines, title="Title")
    assert (tmp_path / "p.png").read_bytes()[:8] == PNG


def test_one_model_and_radius_zero(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_robustness(tmp_path / "p.png", {"0": 0.0}, robust_lines("baseline", [0.0], 0.89, certified=[0.89]), title="")
    assert (tmp_path / "p.png").exists()


def test_crowded_labels_are_left_out() -> None:
    assert _spaced([0.0, 0.001, 0.004, 0.0041, 0.03], ["0", "a", "b", "c", "d"]) == ["0", "", "b", "", "d"]


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
