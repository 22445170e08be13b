"""The picture: a readable PNG, nothing of matplotlib's global state touched, a clear word where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from simplicit.errors import MissingExtraError
from simplicit.implicit import ImplicitModel
from simplicit.report import Curve, draw_frontier

A = np.triu(np.ones((4, 4)), 1) * 0.1
MODEL = ImplicitModel.from_matrices(A, np.ones((4, 3)), np.ones((2, 4)), np.zeros((2, 3)))
CURVES = (Curve("clean", [97.0, 90.0], 98.0), Curve("PGD-20, ε = 0.1", [50.0, 60.0], 40.0))


def draw(path: Path) -> None:
    draw_frontier(path, [50.0, 80.0], CURVES, MODEL, title="Non-zeros of M")


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
