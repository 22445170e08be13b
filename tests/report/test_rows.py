"""The pictures of solved rows: readable PNGs that follow the figures, and a clear word where matplotlib is missing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import simplicit as sp
from simplicit.errors import MissingExtraError
from simplicit.report import draw_path, draw_solution

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def solved(m: int = 40, d: int = 30, r: int = 20, **settings: Any) -> sp.Solution:
    rng = np.random.default_rng(0)
    return sp.solve_rows(rng.normal(size=(m, d)), rng.normal(size=(m, r)), **({"penalty": sp.L1(9.0)} | settings))


def share(pixels: Any, colour: tuple[int, int, int]) -> float:
    return float((np.abs(pixels * 255 - colour).max(axis=2) < 2).mean())


def read(path: Path) -> Any:
    return pytest.importorskip("matplotlib").image.imread(path)[:, :, :3]


@pytest.mark.slow
def test_the_pattern_follows_the_coefficients(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sparse, dense = solved(), solved(penalty=sp.L1(1.0))
    draw_solution(tmp_path / "sparse.png", sparse, tol=1e-6)
    draw_solution(tmp_path / "dense.png", dense, tol=1e-6)
    few, many = (share(read(tmp_path / f"{name}.png")[:, 900:], BLUE) for name in ("sparse", "dense"))
    assert few / many == pytest.approx(sparse.coefficients.nnz / dense.coefficients.nnz, rel=0.1)
    assert share(read(tmp_path / "sparse.png"), ORANGE) == 0


def test_rows_without_a_certificate_stand_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_solution(tmp_path / "p.png", solved(penalty=sp.BasisPursuit(), throw=False), tol=1e-6)
    assert share(read(tmp_path / "p.png"), ORANGE) > 0


def test_more_rows_and_columns_than_pixels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    few, many = solved(), np.arange(700) % 20
    W = scipy.sparse.random_array((700, 3000), density=0.01, rng=np.random.default_rng(0), format="csr")
    large = replace(few, coefficients=W, relative_gap=few.relative_gap[many], status=few.status[many])
    draw_solution(tmp_path / "p.png", large, tol=1e-6)
    assert read(tmp_path / "p.png").shape[1] == 1600


def test_a_path(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    before = dict(mpl.rcParams)
    strengths = [30.0, 10.0, 3.0]
    path = [solved(penalty=sp.L1(beta)) for beta in strengths]
    draw_path(tmp_path / "p.png", strengths, path, tol=1e-6, label="beta")
    pixels = read(tmp_path / "p.png")
    assert share(pixels[:, :800], BLUE) > 0
    assert share(pixels[:, 800:], BLUE) > 0
    assert dict(mpl.rcParams) == before


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simplicit\[report\]'"):
        draw_solution(tmp_path / "p.png", solved(), tol=1e-6)
    assert list(tmp_path.iterdir()) == []
