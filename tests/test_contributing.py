"""CONTRIBUTING.md is true: its examples run from Python and from the command line, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import prose, run_blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(PAGE, capsys)
    assert len((tmp_path / "there.txt").read_text().split()) == 1
    assert "| random, uniform allocation |" in (tmp_path / "frontier" / "frontier.md").read_text()


def test_the_table_names_files_that_are_there() -> None:
    rows = re.findall(r"^\| [\w ]+ \| (.*?) \| .*? \| `(tests/[\w/.]+)` \|$", prose(PAGE), flags=re.MULTILINE)
    assert len(rows) == 14
    for sources, test in rows:
        assert (ROOT / test).exists(), test
        for source in re.findall(r"`([\w/.]+)`", sources):
            path = ROOT / "src" / "simplicit" / source
            assert path.parent.is_dir() if path.stem == "NAME" else path.is_file(), source


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(PAGE)):
        assert (ROOT / target).is_file(), target
