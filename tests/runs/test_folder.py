"""Run folders appear whole or not at all; manifests are strict JSON and are read with suspicion."""

from __future__ import annotations

import enum
import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from simplicit.errors import DataError, InputError
from simplicit.files import dumps, file_hash, read_json, write_json
from simplicit.runs.folder import Manifest, check_output, read_manifest, relative_to, run_folder


def test_appears_complete_with_its_parents(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with run_folder(target) as draft:
        Manifest("fit").write(draft)
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["run.json"]
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "a").stat().st_mode & 0o777


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write_half() -> None:
        with run_folder(tmp_path / "a" / "b") as draft:
            (draft / "half").write_text("")
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_earlier_run(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with run_folder(target) as draft:
        Manifest("fit", results={"x": 1}).write(draft)
    with pytest.raises(KeyboardInterrupt), run_folder(target, overwrite=True):
        raise KeyboardInterrupt
    assert read_manifest(target, "fit")["results"] == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_existing_folder_needs_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with run_folder(target) as draft:
        Manifest("fit").write(draft)
    with pytest.raises(InputError, match=r"exists already.*--overwrite"):
        check_output(target, overwrite=False)
    with run_folder(target, overwrite=True) as draft:
        Manifest("fit", results={"x": 2}).write(draft)
    assert read_manifest(target, "fit")["results"] == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_runs_are_ever_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        with pytest.raises(InputError, match="not the folder of an earlier run"):
            check_output(tmp_path / name, overwrite=True)


def test_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), run_folder(tmp_path / "file" / "run"):
        pass


def test_json_is_strict_and_plain() -> None:
    class Colour(enum.Enum):
        RED = "red"

    @dataclass
    class Thing:
        where: Path
        values: tuple[float, ...]

    text = dumps(
        {"a": np.float32(0.5), "b": np.arange(3), "c": Colour.RED, "d": Thing(Path("x"), (math.nan, math.inf, 1.0))}
    )
    assert json.loads(text) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": "red",
        "d": {"where": "x", "values": [None, None, 1.0]},
    }


def test_manifest_says_what_it_ran_on(tmp_path: Path) -> None:
    Manifest("fit", command=["simplicit", "fit"], seconds={"training": 1.23456}).write(tmp_path)
    manifest = read_manifest(tmp_path, "fit")
    assert {"python", "simplicit", "torch", "numpy", "scipy"} == manifest["versions"].keys()
    assert manifest["seconds"] == {"training": 1.235}
    assert manifest["written"].endswith("+00:00")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a JSON document"),
        ("[]", "expected a JSON object, got list"),
        ('{"kind": "demo"}', "written by `simplicit demo`"),
        ('{"kind": "fit", "format": 99}', "format 99"),
        ('{"kind": "fit", "format": 2, "settings": {}}', "no section 'inputs'"),
        ('{"kind": "fit", "format": 2, "settings": [], "inputs": {}}', "no section 'settings'"),
    ],
)
def test_damaged_manifest(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=told):
        read_manifest(tmp_path, "fit")


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        read_manifest(tmp_path, "fit")
    with pytest.raises(DataError, match="no such folder"):
        read_manifest(tmp_path / "none", "fit")


def test_file_hash_and_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_hash(tmp_path / "empty").startswith("sha256:e3b0c44298fc1c14")
    with pytest.raises(DataError, match="cannot be read"):
        file_hash(tmp_path / "none")
    assert relative_to(tmp_path / "a" / "x", tmp_path / "b") == "../a/x"


def written(target: Path, kind: str, **results: int) -> Path:
    with run_folder(target) as draft:
        Manifest(kind, results=results).write(draft)
    return target


@pytest.mark.parametrize("text", ['{"mine": 1}', "{", '{"kind": "thesis"}', '{"kind": "fit", "format": 2}'])
def test_a_stranger_with_a_manifest_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="not the folder of an earlier run"):
        check_output(tmp_path, overwrite=True)


def test_a_run_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    target = written(tmp_path / "run", "fit", x=1)
    config = read_json(target / "run.json")
    write_json(target / "run.json", config | {"format": config["format"] - 1})
    with pytest.raises(DataError, match=r"format 1, this version reads 2; run it again"):
        read_manifest(target, "fit")
    with run_folder(target, overwrite=True) as draft:
        Manifest("fit", results={"x": 2}).write(draft)
    assert read_manifest(target, "fit")["results"] == {"x": 2}
    write_json(target / "run.json", config | {"format": config["format"] + 1})
    with pytest.raises(InputError, match="not the folder of an earlier run"):
        check_output(target, overwrite=True)


def test_only_the_same_kind_is_replaced(tmp_path: Path) -> None:
    target = written(tmp_path / "run", "baseline", x=1)
    with pytest.raises(InputError, match="written by `simplicit baseline`, so `simplicit fit`"):
        check_output(target, overwrite=True, kind="fit")

    def replace() -> None:
        with run_folder(target, overwrite=True) as draft:
            Manifest("eval").write(draft)

    with pytest.raises(InputError, match="`simplicit eval` does not replace it"):
        replace()
    assert read_manifest(target, "baseline")["results"] == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    target = written(tmp_path / "run", "fit")
    (target / "w.pt").write_text("")
    (tmp_path / "link").symlink_to(target)
    for path in (target, target / "w.pt", tmp_path / "link"):
        with pytest.raises(InputError, match="which this run reads"):
            check_output(target, overwrite=True, kind="fit", inputs=[path])
    check_output(target, overwrite=True, kind="fit", inputs=[tmp_path / "other"])


def test_full_disc_is_told_in_one_line(tmp_path: Path) -> None:
    target = tmp_path / "a" / "run"
    with (
        pytest.raises(DataError, match=r"output .*run: cannot be written \(No space left on device\)"),
        run_folder(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parents", ["", "new/er"])
def test_too_long_a_name_is_told_before_the_work(tmp_path: Path, parents: str) -> None:
    with pytest.raises(DataError, match=r"cannot be written \(File name too long\)"):
        check_output(tmp_path / parents / ("a" * 300), overwrite=False)
    assert list(tmp_path.iterdir()) == []
    written(tmp_path / ("a" * 250), "fit")
