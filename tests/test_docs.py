"""The pages in docs/ are true: their code runs and prints what they say, and what they point to is there."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from documents import commands, fences, prose, reader, run_blocks
from simplicit.cli.commands import COMMANDS
from simplicit.cli.signature import Signature, option_name

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: What a user gives to a batch script.
GIVEN = {"array": "features.npy targets.npy", "merge": "journal", "ray": "features.npy targets.npy"}
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "```python" in (DOCS / name).read_text("utf-8")])
def test_the_python_blocks_run_and_print_what_the_page_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(DOCS / name, capsys)


def test_there_are_pages_with_code() -> None:
    languages = [language for page in PAGES for language, _, _ in fences(page)]
    assert languages.count("python") >= 20
    assert languages.count("text") >= 10


def test_what_the_pages_include_is_there() -> None:
    included = [
        (page, target) for page in PAGES for kind, target, _ in fences(page) if kind in ("{literalinclude}", "{image}")
    ]
    assert {target.rsplit("/", 1)[-1] for _, target in included} >= {"elastic_net.py", "piecewise.py"}
    for page, target in included:
        assert (page.parent / target).is_file(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(page)):
        file = target.split("#")[0]  # what follows is checked by the build
        assert not file or (page.parent / file).is_file(), target


@pytest.mark.parametrize("page", [*PAGES, *OTHERS, ROOT / "README.md"], ids=lambda page: page.name)
def test_the_benchmarks_and_results_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"benchmarks/[\w/]+\.(?:py|sh|md|json|png|txt)", page.read_text("utf-8")):
        assert (ROOT / name).is_file(), name


def test_the_modules_on_the_path_of_a_fit_are_there() -> None:
    named = re.findall(r"`(?!src/)(\w+/\w+)`", prose(DOCS / "how-it-works.md"))
    assert len(named) >= 15
    for name in named:
        path = ROOT / "src" / "simplicit" / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_the_commands_are_read(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader(capsys, monkeypatch)
    for words in commands(page):
        if "--config" not in words:
            code, _, error = read(*words)
            assert code == 0, (words, error)


def test_the_batch_scripts_are_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader(capsys, monkeypatch)
    scripts = sorted((ROOT / "examples" / "slurm").glob("*.sbatch"))
    assert len(scripts) == 3
    for script in scripts:
        text = (
            script.read_text(encoding="utf-8")
            .replace("\\\n", " ")
            .replace('"$@"', GIVEN[script.stem])
            .replace("$address", "host:1")
        )
        (line,) = re.findall(r"^simplicit (.*)$", text, flags=re.MULTILINE)
        code, _, error = read(*shlex.split(re.sub(r"\$\{[^}]*\}|\$\w+", "1", line)))
        assert code == 0, (script.name, error)


def test_tasks_that_are_run_again_solve_the_parts_that_they_did(tmp_path: Path) -> None:
    (tmp_path / "simplicit").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "simplicit").chmod(0o755)
    own = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "JOURNAL": "my journal", "SLURM_CPUS_PER_TASK": "2"}
    script = ROOT / "examples" / "slurm" / "array.sbatch"
    for task, count in (("3", "16"), ("3", "2"), ("7", "2")):
        given = own | {"PARTS": "16", "SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": count}
        done = subprocess.run(["bash", script, "U.npy"], env=given, capture_output=True, text=True, check=True)
        assert f"solve U.npy --part {task}/16 " in done.stdout
    done = subprocess.run(["bash", script], env=own | {"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PARTS: says in how many parts" in done.stderr


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    spec = spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    rooms = script("rooms")
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.svg(), "the rooms have changed; run python docs/rooms.py"


def test_the_reference_is_that_of_the_public_names() -> None:
    reference = script("reference")
    kept = reference.PAGE.read_text(encoding="utf-8")
    assert kept == reference.page(), "public names have changed; run python docs/reference.py"
    shown = {name.rpartition(".")[2] for name in re.findall(r"\.\. auto\w+:: ([\w.]+)", kept)}
    rooms = [f"simplicit.{room}" for rooms, _ in reference.ROOMS.values() for room in rooms]
    for room in map(importlib.import_module, ["simplicit", *rooms]):
        shows = {name for name in getattr(room, "__all__", ()) if callable(getattr(room, name))}
        assert shows <= shown, (room.__name__, shows - shown)
    for name in reference.REGISTRIES:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_page_of_the_command_line_names_every_option() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        section = page.partition(f"## simplicit {name}\n")[2].partition("\n## ")[0]
        for option in Signature(command, {}).options:
            word = option.name.upper() if option.argument else option_name(option.name)
            assert f"`{word}" in section, (name, word)


@pytest.mark.slow
def test_the_page_of_the_command_line_is_what_help_says() -> None:
    commands_page = script("commands")
    kept = commands_page.PAGE.read_text(encoding="utf-8")
    assert kept == commands_page.page(), "options have changed; run python docs/commands.py"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; `make docs` installs them")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        html = (tmp_path / "html" / page.relative_to(DOCS).with_suffix(".html")).read_text(encoding="utf-8")
        assert "</article>" in html, page
    assert "fonts.googleapis" not in html
