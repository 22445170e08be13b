"""Settings survive the way through run.json and TOML, and nonsense does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simplicit.errors import DataError, InputError
from simplicit.runs.folder import Manifest
from simplicit.runs.settings import FitSettings, read_config, read_fit


def test_round_trip_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = FitSettings(baseline="base", data="arrays", sparsity=65.0, input_shape=(1, 8, 8), data_dir="files")
    run = tmp_path / "runs" / "fit"
    run.mkdir(parents=True)
    Manifest("fit", settings=settings.to_config(run)).write(run)
    assert json.loads((run / "run.json").read_text())["settings"]["baseline"] == "../../base"
    monkeypatch.chdir("/")
    values, _ = read_config(run)
    again = FitSettings.from_mapping(values, "run.json")
    assert again.baseline == str(tmp_path / "base")
    assert again.data == str(tmp_path / "arrays")
    assert (again.input_shape, again.sparsity, again.kappa) == ((1, 8, 8), 65.0, 0.99)


def test_named_data_is_no_path(tmp_path: Path) -> None:
    settings = FitSettings(baseline="base", data="digits")
    assert settings.to_config(tmp_path)["data"] == "digits"


def test_toml(tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text('baseline = "base"\nsparsity = 80\nkappa = 0.5\nregenerate = false\n')
    values, inputs = read_config(tmp_path / "fit.toml")
    settings = FitSettings.from_mapping(values, "fit.toml")
    assert (settings.sparsity, settings.kappa, settings.regenerate) == (80.0, 0.5, False)
    assert settings.baseline == str(tmp_path / "base")
    assert inputs == {}
    (tmp_path / "fit.toml").write_text("baseline = ")
    with pytest.raises(DataError, match="not a TOML document"):
        read_config(tmp_path / "fit.toml")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"depth": 3}, "unknown setting 'depth'"),
        ({"samples": "many"}, "samples must be int, got 'many'"),
        ({"samples": True}, "samples must be int, got True"),
        ({"samples": None}, "samples must be int, got None"),
        ({"regenerate": 1}, "regenerate must be bool, got 1"),
        ({"input_shape": [1, "x"]}, "input_shape must be list of positive int"),
        ({"trust_pt2": True}, "unknown setting 'trust_pt2'"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"model": "a:b"}, "name one network"),
        ({"baseline": None}, "name one network"),
        ({"baseline": None, "model": "a:b"}, "needs --data"),
    ],
)
def test_nonsense(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        FitSettings.from_mapping({"baseline": "base"} | values, "run.json")


def test_overrides_of_a_finished_fit(tmp_path: Path) -> None:
    Manifest("fit", settings=FitSettings(model="a:b", weights="w.pt", data="digits").to_config(tmp_path)).write(
        tmp_path
    )
    settings = read_fit(tmp_path, baseline=Path("other"), data="fashion-mnist", data_dir=Path("files"))
    assert (settings.baseline, settings.model, settings.weights) == ("other", None, None)
    assert (settings.data, settings.data_dir) == ("fashion-mnist", "files")
