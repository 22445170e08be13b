"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import simplicit
from simplicit.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(text for language, text in BLOCKS if language == "python")
    assert len(code.splitlines()) >= 10
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "42 of 42 certified" in printed
    assert "20 converged" in printed
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_the_commands_and_their_options_exist() -> None:
    lines = [line.split("#")[0] for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("simplicit")]
    assert len(commands) >= 4
    for command, *rest in commands:
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for option in (word for word in rest if word.startswith("--")):
            assert option.replace("--no-", "--") in shown.output.replace("--no-", "--"), (command, option)


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {simplicit.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_file_that_it_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
