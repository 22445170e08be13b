"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from simplicit.errors import DataError
from simplicit.files import drafted, dumps, read_json, write_bytes, write_json, writing


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"before", durable=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        told = r"file: cannot be written \(No space left on device\); make room"
        with pytest.raises(DataError, match=told), writing(path, "make room"):
            write_bytes(path, b"after", durable=True)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("folder", [False, True])
def test_nothing_remains_of_what_was_broken_off(tmp_path: Path, failure: type[BaseException], folder: bool) -> None:
    def write(target: Path, content: str) -> None:
        with drafted(target) as draft:
            if folder:
                draft.mkdir()
            (draft / "part" if folder else draft).write_text(content)
            if content == "broken":
                raise failure

    with pytest.raises(failure):
        write(tmp_path / "deep" / "target", "broken")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "deep" / "target", "whole")
    with pytest.raises(failure):
        write(tmp_path / "deep" / "target", "broken")
    write(tmp_path / "deep" / "target", "again")
    written = tmp_path / "deep" / "target"
    assert (written / "part" if folder else written).read_text() == "again"
    assert list((tmp_path / "deep").iterdir()) == [written]


def test_json_is_strict_and_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": (1, 2.5), "path": Path("a/b")})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [1, 2.5], "path": "a/b"}
    with pytest.raises(TypeError):
        dumps(object())


@pytest.mark.parametrize(("text", "told"), [("[1]", "expected a JSON object, got list"), ("{", "not a JSON document")])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=f"a.json: damaged, {told}"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"b.json: cannot be read \(No such file"):
        read_json(tmp_path / "b.json")
