"""Where blocks of rows run.

An executor has workers, each of which solves one block at a time; :mod:`simplicit.executors.running` hands the blocks
out and deals with whatever happens to workers. The blocks, the memory they read, the arithmetic inside them and the one
BLAS thread that each has do not depend on the executor or on the number of workers, so neither do the results.

A new executor is one file here and one line in ``EXECUTORS``; a class that is put there at run time is found too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from simplicit.errors import InputError
from simplicit.executors.base import Executor
from simplicit.executors.journal import Journal, Section, digest
from simplicit.executors.processes import Processes
from simplicit.executors.ray import Ray
from simplicit.executors.running import Deadline, run_blocks
from simplicit.executors.serial import Serial
from simplicit.executors.threads import Threads
from simplicit.executors.work import Arrays, Block, Work

__all__ = [
    "EXECUTORS",
    "Arrays",
    "Block",
    "Deadline",
    "Executor",
    "Journal",
    "Processes",
    "Ray",
    "Section",
    "Serial",
    "Threads",
    "Work",
    "as_executor",
    "digest",
    "opened",
    "run_blocks",
]

#: By the names that stand for an executor with its usual settings.
EXECUTORS: dict[str, type[Executor]] = {"serial": Serial, "threads": Threads, "processes": Processes, "ray": Ray}


def as_executor(executor: str | Executor) -> Executor:
    """The executor itself, or a new one of that name.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if isinstance(executor, Executor):
        return executor
    if not isinstance(executor, str) or executor not in EXECUTORS:
        raise InputError(
            f"executor: {executor!r} is unknown; choose one of {', '.join(map(repr, EXECUTORS))}", argument="executor"
        )
    return EXECUTORS[executor]()


@contextmanager
def opened(executor: str | Executor) -> Iterator[Executor]:
    """The executor itself, or one of that name whose workers end with the block.

    Raises
    ------
    InputError
        For an unknown name.
    """
    made = as_executor(executor)
    try:
        yield made
    finally:
        if made is not executor:
            made.close()
