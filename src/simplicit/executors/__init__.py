"""Where blocks of rows run.

An executor has workers, each of which solves one block at a time; :mod:`simplicit.executors.running` hands the blocks
out and deals with whatever happens to workers. The blocks, the memory they read, the arithmetic inside them and the one
BLAS thread that each has do not depend on the executor or on the number of workers, so neither do the results.

A new executor is one file here and one line in ``EXECUTORS``.
"""

from __future__ import annotations

from simplicit.errors import InputError
from simplicit.executors.base import Executor
from simplicit.executors.journal import Journal, Section, digest
from simplicit.executors.processes import ProcessExecutor
from simplicit.executors.ray import RayExecutor
from simplicit.executors.running import Deadline, run_blocks
from simplicit.executors.serial import SerialExecutor
from simplicit.executors.threads import ThreadExecutor
from simplicit.executors.work import Arrays, Block, Result, Spec, Work

__all__ = [
    "EXECUTORS",
    "Arrays",
    "Block",
    "Deadline",
    "Executor",
    "Journal",
    "Result",
    "Section",
    "Spec",
    "Work",
    "check_executor",
    "digest",
    "make_executor",
    "run_blocks",
]

EXECUTORS: dict[str, type[Executor]] = {
    kind.name: kind for kind in (SerialExecutor, ThreadExecutor, ProcessExecutor, RayExecutor)
}


def make_executor(name: str, workers: int | None = None, *, ray_address: str | None = None) -> Executor:
    """The executor of that name, to be used for one solve or, in a ``with`` block, for many.

    Parameters
    ----------
    name : str
        One of ``EXECUTORS``.
    workers : int, optional
        How many blocks are solved at a time; the number of processors when left out, of ``"ray"`` those of the cluster.
    ray_address : str, optional
        ``host:port`` of a Ray cluster to join, or ``"auto"`` for the one that runs on this machine; ``"ray"`` starts
        its own when left out.

    Raises
    ------
    InputError
        For an unknown name, fewer than one worker, or an address that cannot be reached.
    MissingExtraError
        If Ray is not installed.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> features, targets = rng.normal(size=(50, 200)), rng.normal(size=(50, 3))
    >>> with sp.make_executor("threads", workers=2) as executor:
    ...     solutions = [sp.solve_rows(features, targets, penalty=sp.L1(b), executor=executor) for b in (9.0, 3.0)]
    """
    check_executor(name)
    return EXECUTORS[name](workers, address=ray_address)


def check_executor(name: str) -> None:
    """Raise InputError for an unknown name."""
    if not isinstance(name, str) or name not in EXECUTORS:
        raise InputError(f"executor: {name!r} is unknown; choose one of {', '.join(map(repr, EXECUTORS))}")
