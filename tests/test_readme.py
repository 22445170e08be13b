"""The README's code runs as it stands, and its commands are read by the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import simplicit
from documents import commands, fences, reader

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_python_blocks_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [text for language, _, text in fences(README) if language == "python"]
    code = "\n".join(blocks)
    assert len([line for line in blocks[0].splitlines() if line]) == 10
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "42 of 42 certified" in printed
    assert "20 converged" in printed
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_the_commands_are_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader(capsys, monkeypatch)
    found = [words for words in commands(README) if "--config" not in words]
    assert len(found) >= 8
    for words in found:
        code, _, error = read(*words)
        assert code == 0, (words, error)


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
