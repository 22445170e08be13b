"""``simplicit fit --preset`` as a user meets it: presets, options beside them, repeating, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run
from simplicit.cli import main


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    words = ["--arch", "12-8", "--no-bias", "--batch-size", "64", "--epochs", "6", "--output", str(folder)]
    assert main(["baseline", *words]) == 0
    return folder


def test_a_preset_is_written_out_and_repeats(run: Run, base: Path, tmp_path: Path) -> None:
    words = ("--samples", "100", "--preset", "robust", "--later", "0.3", "--output", "a")
    code, out, err = run("fit", base, *words)
    assert code == 0, err
    assert "robust     l1 of the worst case, x 0.3 on later layers; 1 round of worst cases" in out
    settings = json.loads((tmp_path / "a" / "run.json").read_text())["settings"]
    told = {name: settings[name] for name in ("preset", "robust", "later", "attacks", "kappa", "penalty", "beta")}
    assert told == {
        "preset": "robust",
        "robust": True,
        "later": 0.3,
        "attacks": 1,
        "kappa": None,
        "penalty": "l1",
        "beta": 1.3e-3,
    }
    assert run("fit", "--config", "a", "--output", "b")[0] == 0
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()
    assert run("fit", "--config", "a", "--preset", "certified", "--attacks", "0", "--output", "c")[0] == 0
    settings = json.loads((tmp_path / "c" / "run.json").read_text())["settings"]
    assert (settings["preset"], settings["later"], settings["attacks"]) == ("certified", 3.0, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--preset", "fast"), "--preset: 'fast' is unknown; choose one of"),
        (("--robust",), "--kappa: got 0.99; robust takes None"),
        (
            ("--preset", "robust", "--attack-eps", "2"),
            "--attack-eps must lie between 0 and the width of clip, 1, got 2",
        ),
        (("--preset", "robust", "--attacks", "-1"), "--attacks must be an integer of at least 0"),
        (("--preset", "robust", "--structure", "dense"), "--structure: got 'dense'; robust takes"),
        (("--preset", "robust", "--penalty", "basis-pursuit"), "robust: the penalty is the worst case"),
        (("--kappa", "much"), "--kappa: expected a number or none, got 'much'"),
    ],
)
def test_bad_input(run: Run, base: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    code, out, err = run("fit", base, "--samples", "60", *words, "--output", "x")
    assert (code, out, err.count("Error: ")) == (2, "", 1)
    assert told in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
