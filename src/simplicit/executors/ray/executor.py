"""The executor that solves blocks on a Ray cluster: shared arrays are put there once, own rows go with each block.

Nothing waits without a limit, for a resource that is gone would never come: an actor that has no place is just not
idle.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import Any

from simplicit.executors.base import Executor, Report
from simplicit.executors.ray.actor import Actor, Loaded
from simplicit.executors.ray.cluster import AUTO, Cluster, split_address
from simplicit.executors.records import Layout, allocate, total_bytes
from simplicit.executors.work import Block, Work
from simplicit.machine import available_processors, flushed_denormals, one_thread_each

#: How long one wait lasts at most, so that interrupts are noticed.
TICK_SECONDS = 1.0
#: The object store should be larger than what is put into it by this factor: near its limit it spills to disk.
HEADROOM = 1.2


class _Pool:
    """The cluster and our actors on it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.actors: dict[int, Actor] = {}

    def start(self, worker: int) -> Actor:
        """A new actor of this number."""
        self.actors[worker] = Actor(self.cluster.ray)
        return self.actors[worker]

    def close(self) -> None:
        """End the actors, and the cluster if it is ours."""
        for actor in self.actors.values():
            actor.kill()
        self.actors.clear()
        self.cluster.close()


@dataclass(eq=False, kw_only=True)
class Ray(Executor):
    """Solve blocks of rows in actors of a Ray cluster, on this machine or many (extra ``ray``).

    An actor that dies or hangs is replaced, and its block solved elsewhere; so is one whose node is lost. A cluster of
    its own listens on the loopback alone, asks for a token, and ends with the executor.

    Parameters
    ----------
    workers : int, optional
        How many blocks are solved at a time, each by an actor on one processor; as many as the cluster has processors
        when left out.
    address : str, optional
        The cluster to join, as ``host:port``, or ``"auto"`` for the one that runs on this machine. When left out, the
        one that this process is connected to already, or else a new one on this machine.
    block_timeout : float, optional
        Seconds after which a worker that is still at a block counts as hung. When left out, twenty times what the
        longest block took so far, at least a minute.

    Raises
    ------
    InputError
        For fewer than one worker, an address that is none, or a time-out that is not positive; when it is first used,
        if nothing answers at the address, or the cluster refuses.
    MissingExtraError
        When it is first used, if Ray is not installed.
    """

    replaces = True

    workers: int | None = None
    address: str | None = None
    block_timeout: float | None = None
    _pool: _Pool = field(init=False, repr=False, default_factory=_Pool)
    _loaded: Loaded | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None and self.address != AUTO:
            split_address(self.address)
        weakref.finalize(self, self._pool.close)

    @property
    def n_workers(self) -> int:
        """How many blocks are solved at a time; the cluster at the address is joined to know it."""
        self._pool.cluster.connect(self.address)
        return self.workers or self._pool.cluster.processors or super().n_workers

    @property
    def copies(self) -> int:
        return self.n_workers if self.address is None else 1

    def load(self, work: Work[Any]) -> None:
        self.unload()
        workers, cluster = self.n_workers, self._pool.cluster
        own_bytes = max(total_bytes(work.arrays.own(block)) for block in work.blocks)  # that travel with a block
        store_bytes = int(HEADROOM * (total_bytes(work.arrays.shared) + 2 * workers * own_bytes))
        cluster.start(workers, store_bytes)
        cluster.check_room(store_bytes)
        for worker in range(workers):
            if worker not in self._pool.actors:
                self._pool.start(worker)
        layout, own = Layout.of(work.arrays.shared), allocate(replace(work.arrays, shared=None))
        memory = layout.memory()
        with one_thread_each(), flushed_denormals():
            work.fill(replace(own, shared=layout.record(memory)), available_processors())
        self._loaded = Loaded(work.opener, layout, cluster.ray.put(memory), own)
        for actor in self._pool.actors.values():
            actor.load(self._loaded)

    def unload(self) -> None:
        if self._loaded is None:
            return
        self._loaded = None
        for worker, actor in list(self._pool.actors.items()):
            if actor.running is not None:
                self._pool.actors.pop(worker).kill()
            else:
                actor.unload()

    def close(self) -> None:
        super().close()
        self._pool.close()

    def idle(self) -> list[int]:
        return [worker for worker, actor in sorted(self._pool.actors.items()) if not actor.pending()]

    def start(self, worker: int, block: Block) -> None:
        assert self._loaded is not None
        self._pool.actors[worker].solve(block, *self._loaded.own.own(block))

    def wait(self, seconds: float | None) -> list[Report]:
        owners = {ref: worker for worker, actor in self._pool.actors.items() for ref in actor.pending()}
        tick = TICK_SECONDS if seconds is None else min(seconds, TICK_SECONDS)
        done, _ = self._pool.cluster.ray.wait(list(owners), num_returns=1, timeout=tick) if owners else ([], [])
        return [report for ref in done for report in self._pool.actors[owners[ref]].reports(owners[ref], ref)]

    def replace(self, worker: int) -> None:
        self._pool.actors[worker].kill()
        actor = self._pool.start(worker)
        if self._loaded is not None:
            actor.load(self._loaded)
