"""The command line as a function, for tests."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simplicit.cli import main

__all__ = ["Run", "files", "invoker", "manifest", "one_line", "settings", "unrendered"]

#: From words to the exit code, standard output and standard error.
Run = Callable[..., tuple[int, str, str]]


def invoker(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command in this process."""

    def invoke(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


#: One white pixel.
_PIXEL = b"\x89PNG\r\n\x1a\n" + b"".join(
    _chunk(*parts)
    for parts in (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\x00\xff")),
        (b"IEND", b""),
    )
)


def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on figures are composed as ever, and saved as one pixel."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: Path(path).write_bytes(_PIXEL))


def one_line(result: tuple[int, str, str], *told: str) -> None:
    """A command ended with exit code 2 and one line on standard error that has some words."""
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for words in told:
        assert words in err, err


def files(folder: str | Path = ".") -> list[str]:
    """What is in a folder and below."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def manifest(folder: str | Path) -> dict[str, Any]:
    """The ``run.json`` of a folder."""
    found: dict[str, Any] = json.loads(Path(folder, "run.json").read_text())
    return found


def settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a run."""
    found: dict[str, Any] = manifest(folder)["settings"]
    return found
