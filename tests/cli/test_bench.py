"""``simplicit bench`` as a user meets it. Speeds are measured and never asserted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Run, files, manifest, one_line
from simplicit.report import can_draw
from simplicit.runs.bench import WAYS, Made, Way
from simplicit.runs.bench.subject import BenchSubject

QUICK = ("--batch", 3, "--batch", 1, "--seconds", 0.001)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLICIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Leave the ways of these names, and put in others."""

    def leave(*names: str, **more: Way) -> None:
        for name in [*WAYS]:
            if name not in names:
                monkeypatch.delitem(WAYS, name)
        for name, way in more.items():
            monkeypatch.setitem(WAYS, name, way)

    return leave


def test_all_ways_and_their_report(run: Run, fitted: Any) -> None:
    pytest.importorskip("onnxruntime")
    code, out, err = run("bench", fitted("sparse"), *QUICK, "--output", "b")
    assert (code, err) == (0, "")
    for told in (
        "dense torch",
        "accelerated",
        "compacted",
        "ONNX Runtime, compacted",
        "quartiles",
        "50.0 % of the weights are zero",
        "Saved in b",
    ):
        assert told in " ".join(out.split())
    assert "Left out" not in out
    assert manifest("b")["kind"] == "bench"
    document = json.loads(Path("b/bench.json").read_text())
    rows = document["measurements"]
    assert [row["batch"] for row in rows] == [batch for batch in (1, 3) for _ in document["ways"]]
    for row in rows:
        assert 0 < row["lower"] <= row["median"] <= row["upper"]
        assert row["rounds"] >= 3
        assert row["difference"] < 1e-5
        assert row["samples_per_second"] == pytest.approx(row["batch"] / row["median"])
        assert row["ratio"] == 1 or row["way"] != "dense"
    assert document["files"].keys() >= {"dense", "zipped", "sparse", "onnx", "compacted", "onnx-compacted"}
    dense = document["ways"][0]
    assert dense["weight_bytes"] == 4 * document["weights"] == 4 * (64 * 12 + 12 * 8 + 8 * 10)
    if not can_draw():
        return
    assert files("b") == ["bench.json", "run.json", "speed.png"]
    assert run("report", "b", "--output", "r")[0] == 0
    assert files("r") == ["report.html", "run.json", "speed.png"]
    page = Path("r/report.html").read_text()
    assert f"{rows[0]['samples_per_second']:,.0f}" in page
    Path("b/bench.json").write_text("{}")
    one_line(run("report", "b", "--output", "s"), "b: damaged, an entry is missing")


def test_a_baseline_in_two_threads(run: Run, base: Path, only: Any) -> None:
    threads = list[int]()

    def spied(subject: BenchSubject, batches: Sequence[int]) -> Made:
        threads.append(torch.get_num_threads())
        return WAYS["dense"].make(subject, batches)

    only("dense", spied=Way("spied on", spied))
    before = torch.get_num_threads()
    code, out, err = run("bench", base, *QUICK, "--threads", 2, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["threads"], threads, torch.get_num_threads()) == (2, [2], before)
    assert [way["name"] for way in document["ways"]] == ["dense", "spied"]
    assert files() == []


def test_ways_that_cannot_be_taken_are_said(run: Run, base: Path, only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def upset(subject: BenchSubject, _: Sequence[int]) -> Made:
        def call(samples: int) -> Any:
            if samples > 1:
                raise RuntimeError("one at a time\nplease")
            return subject.call(subject.net, samples)

        return Made(call, subject.flat, 0)

    only("dense", "onnx", upset=Way("upset", upset))
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    code, out, err = run("bench", base, *QUICK)
    assert (code, err) == (0, "")
    assert "Left out: onnx: ONNX export needs onnx: pip install 'simplicit[onnx]'." in out
    assert "Left out: upset at 3: one at a time." in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("base", "--batch", 0), "--batch must be an integer of at least 1, got 0"),
        (("base", "--batch", 10**12), "--batch: 1,000,000,000,000 samples need about"),
        (("base", "--seconds", 0), "--seconds must be positive"),
        (("base", "--threads", 0), "--threads must be an integer of at least 1"),
        (("base", "--way", "magic"), "--way: 'magic' is unknown; choose one of 'dense'"),
        (("nowhere",), "no such folder"),
        (("base", "--output", "base", "--overwrite"), "is or holds"),
    ],
)
def test_bad_options(run: Run, base: Path, words: tuple[object, ...], told: str) -> None:
    place, *options = (base if word == "base" else word for word in words)
    one_line(run("bench", place, *options), told)
    assert files() == []


def test_data_that_the_network_does_not_take(run: Run, base: Path) -> None:
    np.savez("mine.npz", inputs=np.ones((40, 6), dtype=np.float32), labels=np.arange(40) % 2)
    one_line(run("bench", base, "--data", "mine.npz"), "--data mine.npz: the network does not take its samples")


def test_a_fit_whose_network_has_no_weights_for_it(run: Run, fitted: Any) -> None:
    one_line(run("bench", fitted("paper")), "weights of another structure than baseline")
