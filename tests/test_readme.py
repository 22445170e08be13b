"""The README is true: its code runs as it stands, its commands are read, its table and its picture are of one study."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import simplicit
from documents import commands, fences, prose, reader
from simplicit.studies.frontier import Frontier, methods_of, shown
from simplicit.studies.peers import PEERS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def for_index() -> Any:
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.for_index


def test_the_python_blocks_run_twice_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [text for language, _, text in fences(README) if language == "python"]
    assert len([line for line in blocks[0].splitlines() if line]) == 10
    for _ in range(2):
        exec(compile("\n".join(blocks), "README.md", "exec"), {})
        printed = capsys.readouterr().out
        assert "42 of 42 certified" in printed
        assert "zeros kept: True" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "weights"]


def test_the_commands_are_read_and_can_be_run_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader(capsys, monkeypatch)
    found = list(commands(README))
    assert len(found) >= 5
    for words in found:
        code, _, error = read(*words)
        assert code == 0, (words, error)
    assert all("--overwrite" in words for words in found if words[0] != "reproduce")


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_table_and_the_picture_have_the_same_lines_and_the_figures_of_the_study() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "frontier.json").read_text(encoding="utf-8"))
    found = Frontier.of_figures(figures)
    header, _, *rows = re.search(r"^\|  ?\| 70 % sparse .*?(?=\n\n)", prose(README), re.DOTALL | re.MULTILINE)[0].split(
        "\n"
    )
    sparsities = [float(share) for share in re.findall(r"(\d+) %", header)]
    for row, method in zip(rows, shown(found.methods), strict=True):
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        assert name.strip("*") == str(method)
        for cell, sparsity in zip(cells, sparsities, strict=True):
            clean, attacked = (found.summary(method, sparsity, kind)[0] for kind in ("clean", "pgd"))
            assert cell == f"{100 * clean:.1f} / {100 * attacked:.1f}"


def test_no_two_lines_of_the_picture_share_colour_and_dash() -> None:
    lines = shown(methods_of(PEERS))
    assert len(lines) >= 7
    assert len({(line.solver, line.allocation == "ours") for line in lines}) == len(lines)


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {simplicit.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_changelog_has_this_version() -> None:
    released = re.findall(
        r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M
    )
    assert released[0] == simplicit.__version__


def test_every_file_that_it_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).is_file(), target


def test_an_index_is_given_links_that_lead_somewhere(for_index: Any) -> None:
    text = README.read_text(encoding="utf-8")
    absolute = for_index(text, "https://host/owner/simplicit/")
    assert "](https://host/owner/simplicit/raw/HEAD/benchmarks/results/frontier.png)" in absolute
    assert "[contributing](https://host/owner/simplicit/blob/HEAD/CONTRIBUTING.md)" in absolute
    for shown_text in (absolute, for_index(text, None)):
        assert not re.findall(r"\]\((?!https:)", "".join(shown_text.split("```")[::2]))
        assert shown_text.split("```")[1::2] == text.split("```")[1::2]
    assert "frontier.png" not in for_index(text, None)
    assert "CHANGELOG" not in for_index(text, None)
