"""The picture of accuracy over ε: one line for each kind, readable ticks, and a friendly word without matplotlib."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from simplicit.errors import MissingExtraError
from simplicit.report import RobustCurve, draw_robustness
from simplicit.report.robustness import _labels

CURVES = [
    RobustCurve("baseline", 89.0, certified=[80.0, 3.0], attacked=[84.0, 35.0]),
    RobustCurve("runs/fit", 88.0, certified=[82.0, 30.0], attacked=[85.0, 50.0]),
]


@pytest.mark.parametrize("kinds", ["both", "certified", "attacked"])
def test_a_picture_is_written(tmp_path: Path, kinds: str) -> None:
    curves = [
        RobustCurve(
            curve.label,
            curve.clean,
            certified=None if kinds == "attacked" else curve.certified,
            attacked=None if kinds == "certified" else curve.attacked,
        )
        for curve in CURVES
    ]
    draw_robustness(tmp_path / "p.png", {"0.004": 0.004, "8/255": 8 / 255}, curves, title="Title")
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_model_and_radius_zero(tmp_path: Path) -> None:
    draw_robustness(tmp_path / "p.png", {"0": 0.0}, [RobustCurve("baseline", 89.0, certified=[89.0])], title="")
    assert (tmp_path / "p.png").exists()


def test_crowded_labels_are_left_out() -> None:
    assert _labels([0.0, 0.001, 0.004, 0.0041, 0.03], ["0", "a", "b", "c", "d"]) == ["0", "", "b", "", "d"]


def test_missing_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="report"):
        draw_robustness(tmp_path / "p.png", {"0.1": 0.1}, CURVES[:1], title="")
