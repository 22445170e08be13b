"""Fits on texts in a report: figures of their own, and no pattern of a model that is made when it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run
from simplicit.runs.folder import Manifest
from simplicit.runs.networks import NETWORK

pytest.importorskip("matplotlib")

LAYERS = ["first", "second"]


def text_run(folder: Path, sparsity: float, head: str, main: str, **measures: float) -> Path:
    """The folder of a fit on texts, without weights."""
    (folder / NETWORK).mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / NETWORK / name).write_text(str(folder))
    rows = {"group": [LAYERS[0]] * 2 + [LAYERS[1]] * 2, "nnz": [3, 4, 5, 6], "relative_gap": [1e-9, 0, 1e-7, None]}
    (folder / "rows.json").write_text(json.dumps(rows))
    layers = [{"name": name, "weights": 20, "non_zeros": 9, "error": 0.01} for name in LAYERS]
    results = {"sparsity": sparsity, "non_zeros": 18, "rows_certified": 3, "layers": layers, "texts": 12}
    results |= {"head": head, "main": main, "measures": measures}
    Manifest("fit", settings={"recipe": "sparse", "structure": "baseline"}, results=results).write(folder)
    return folder


def test_the_page(run: Run, tmp_path: Path) -> None:
    embeddings = {"cosine": 0.9741, "same_neighbour": 0.8}
    tokens = {"agreement": 0.9, "perplexity": 21.5, "baseline_perplexity": 20.0}
    runs = [
        text_run(tmp_path / "a", 50.0, "embeddings", "cosine", **embeddings),
        text_run(tmp_path / "b", 70.0, "next tokens", "agreement", **tokens),
    ]
    code, out, err = run("report", *runs, "--output", "r")
    assert (code, err) == (0, ""), out
    assert sorted(path.stem for path in Path("r").glob("*.png")) == ["frontier", "gaps", "layers"]
    page = Path("r", "report.html").read_text(encoding="utf-8")
    for told in (
        "Sparsity and agreement",
        "Fits, on the test texts: embeddings",
        "<td>0.9741</td><td>80.00 %</td>",
        "<td>21.5 (20)</td>",
        "agreement with the baseline: 90.0 % at 70.0 % sparse",
        "first 45.0, second 45.0",
    ):
        assert told in page, told
