"""Where blocks of rows run.

An executor has workers, each of which solves one block at a time; :mod:`simplicit.executors.running` hands the blocks
out and deals with whatever happens to workers. The blocks, the memory they read, the arithmetic inside them and the one
BLAS thread that each has do not depend on the executor or on the number of workers, so neither do the results.

A new executor is one class here and one line in ``EXECUTORS``; a class that is put there at run time is found too.
"""

from __future__ import annotations

from simplicit.checks import check_choice
from simplicit.executors.base import Executor
from simplicit.executors.inprocess import Serial, Threads
from simplicit.executors.journal import Journal, Parts, Section, digest
from simplicit.executors.processes import Processes
from simplicit.executors.ray import Ray
from simplicit.executors.running import Deadline, run_blocks
from simplicit.executors.work import Arrays, Block, Work

__all__ = [
    "EXECUTORS",
    "Arrays",
    "Block",
    "Deadline",
    "Executor",
    "Journal",
    "Parts",
    "Processes",
    "Ray",
    "Section",
    "Serial",
    "Threads",
    "Work",
    "as_executor",
    "digest",
    "run_blocks",
]

#: By the names that stand for an executor with its usual settings.
EXECUTORS: dict[str, type[Executor]] = {"serial": Serial, "threads": Threads, "processes": Processes, "ray": Ray}


def as_executor(executor: str | Executor) -> Executor:
    """The executor itself, or a new one of that name; InputError for an unknown one."""
    if isinstance(executor, Executor):
        return executor
    check_choice("executor", executor, EXECUTORS)
    return EXECUTORS[executor]()
