"""The command line as a function, for tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simplicit.cli import main

__all__ = ["Run", "invoker"]

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
