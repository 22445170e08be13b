"""An actor of a Ray cluster as a worker: what it does, and how the process that started it sees it.

An actor maps the shared arrays of its node's object store, without a copy, and keeps what it computes from them (the
inverses of ADMM). One block at a time is under way on each, so that what travels is bounded. Ray restarts nothing by
itself: which block goes where after an actor, or a node, is lost is decided where it is for all executors.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.checks import refused
from simplicit.errors import first_line
from simplicit.executors.base import Finished, Lost, Report
from simplicit.executors.records import Layout
from simplicit.executors.work import Arrays, Block, Solve, attempt
from simplicit.machine import prepare_thread, versions

#: How long what an actor has finished may take to arrive.
ARRIVE_SECONDS = 120.0


@dataclass(frozen=True)
class Loaded:
    """A work in the object store, and what goes with its blocks."""

    opener: Callable[[Any], Solve[Any]]
    layout: Layout[Any]  # of the shared arrays
    reference: Any  # to the memory that they lie in: one array, so that those in it are aligned
    own: Arrays[None, Any, Any]  # rows and entries, in memory of this process


class _Worker:
    """What an actor does; its class lives in the workers, and its methods are the messages."""

    def __init__(self, paths: list[str]) -> None:
        from threadpoolctl import threadpool_limits

        sys.path += [path for path in paths if path not in sys.path]
        threadpool_limits(limits=1)
        self.solver: Solve[Any] | None = None

    def ready(self) -> dict[str, str]:
        return versions()

    def load(
        self, opener: Callable[[Any], Solve[Any]], layout: Layout[Any], memory: npt.NDArray[np.uint8]
    ) -> dict[str, str]:
        prepare_thread()
        self.solver = opener(layout.record(memory))
        return versions()

    def unload(self) -> None:
        self.solver = None

    def solve(self, block: Block, rows: Any, entries: Any) -> Any:
        assert self.solver is not None
        prepare_thread()  # Ray's own setting is that of whoever had this process before
        return attempt(self.solver, block, rows, entries)


class Actor:
    """An actor as the process sees it that has started it; it comes up when there is a place for it."""

    def __init__(self, ray: Any) -> None:
        remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self.ray = ray
        self.handle = remote.remote([path for path in sys.path if isinstance(path, str)])
        self.coming: list[Any] = [self.handle.ready.remote()]  # its answers to whether it is there and knows the work
        self.running: Any = None  # the result of its block

    def pending(self) -> list[Any]:
        """What it has still to answer; with nothing, it is idle."""
        return self.coming if self.running is None else [*self.coming, self.running]

    def load(self, loaded: Loaded) -> None:
        self.coming.append(self.handle.load.remote(loaded.opener, loaded.layout, loaded.reference))

    def unload(self) -> None:
        self.handle.unload.remote()

    def solve(self, block: Block, rows: Any, entries: Any) -> None:
        self.running = self.handle.solve.remote(block, rows, entries)

    def reports(self, worker: int, reference: Any) -> list[Report]:
        """What one of its answers, which is there, tells about this worker; InputError if it has other versions."""
        try:
            value = self.ray.get(reference, timeout=ARRIVE_SECONDS)
        except self.ray.exceptions.RayError as error:
            return [Lost(worker, f"was lost ({first_line(getattr(error, 'cause', None) or error)})")]
        if reference != self.running:
            self.coming.remove(reference)
            check_versions(value)
            return []
        self.running = None
        return [Finished(worker, value)]

    def kill(self) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and its node with it
            if self.ray.is_initialized():  # otherwise Ray would start a cluster to kill it on
                self.ray.kill(self.handle, no_restart=True)


def check_versions(theirs: dict[str, str]) -> None:
    """Refuse a worker that would compute other bits."""
    others = {name: version for name, version in versions().items() if theirs[name] != version}
    if others:
        named = ", ".join(f"{name} {theirs[name]} instead of {version}" for name, version in others.items())
        raise refused("executor", f"a worker of the Ray cluster has {named}; install the same everywhere")
