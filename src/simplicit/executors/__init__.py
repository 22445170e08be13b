"""Where blocks of rows run.

An executor takes independent tasks and yields their results as they finish. The blocks, the arithmetic inside them and
the one BLAS thread that each has do not depend on the executor or on the number of workers, so neither do the results.
"""

from __future__ import annotations

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.executors.base import Executor, flushed_denormals
from simplicit.executors.serial import SerialExecutor
from simplicit.executors.threads import ThreadExecutor

__all__ = ["EXECUTORS", "Executor", "flushed_denormals", "make_executor"]

EXECUTORS: dict[str, type[Executor]] = {"serial": SerialExecutor, "threads": ThreadExecutor}


def make_executor(name: str, workers: int | None = None) -> Executor:
    """The executor of that name.

    Parameters
    ----------
    name : str
        One of ``EXECUTORS``.
    workers : int, optional
        How many blocks run at a time; the number of processors when left out.

    Raises
    ------
    InputError
        For an unknown name or fewer than one worker.
    """
    if not isinstance(name, str) or name not in EXECUTORS:
        raise InputError(f"executor: {name!r} is unknown; choose one of {', '.join(map(repr, EXECUTORS))}")
    return EXECUTORS[name](None if workers is None else as_count("workers", workers))
