"""The library's own scheduling in virtual time, with stragglers and losses."""

from __future__ import annotations

import argparse
import heapq
import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from results import say
from scale_measure import Parcels

import simplicit as sp
from simplicit.executors import Block, Executor, Work, run_blocks
from simplicit.executors.base import Finished, Lost, Report


@dataclass(frozen=True)
class Trouble:
    """What happens to workers.

    Attributes
    ----------
    slow, slowness : float
        The share of workers that are slow, and how many times slower.
    losses : float
        Per worker and hour.
    hangs : float
        The share of losses of which nobody hears: the worker just stops.
    come_up : float
        Seconds until a new worker is there.
    """

    slow: float = 0.0
    slowness: float = 3.0
    losses: float = 0.0
    hangs: float = 0.1
    come_up: float = 10.0


class Simulated(Executor):
    """Workers in virtual time: blocks take what a table says, workers are slow and are lost as chance has it."""

    replaces = True

    def __init__(self, workers: int, seconds: Any, trouble: Trouble, rng: np.random.Generator, driver: float) -> None:
        self.workers, self.seconds, self.trouble, self.rng, self.driver = workers, seconds, trouble, rng, driver
        self.now = 0.0
        self.speed = np.where(rng.random(workers) < trouble.slow, trouble.slowness, 1.0)
        self.free = dict.fromkeys(range(workers))
        self.coming: list[tuple[float, int]] = []
        self.events: list[tuple[float, int, int, Report]] = []
        self.turn = 0
        self.at: dict[int, int] = {}  # which event a worker's present block will be
        self.lost = 0

    def load(self, work: Work[Any]) -> None:
        """There is nothing to load."""

    def unload(self) -> None:
        """Nor to let go of."""

    def idle(self) -> list[int]:
        while self.coming and self.coming[0][0] <= self.now:
            self.free[heapq.heappop(self.coming)[1]] = None
        return list(self.free)

    def start(self, worker: int, block: Block) -> None:
        self.now += self.driver
        del self.free[worker]
        needs = self.seconds[block.number] * self.speed[worker]
        until = self.rng.exponential(3600 / self.trouble.losses) if self.trouble.losses else np.inf
        self.turn += 1
        self.at[worker] = self.turn
        if until >= needs:
            heapq.heappush(self.events, (self.now + needs, self.turn, worker, Finished(worker, None)))
        elif self.rng.random() >= self.trouble.hangs:
            heapq.heappush(self.events, (self.now + until, self.turn, worker, Lost(worker, "was lost")))

    def wait(self, seconds: float | None) -> list[Report]:
        until = self.now + (np.inf if seconds is None else seconds)
        if self.coming:
            until = min(until, self.coming[0][0])
        while self.events and self.events[0][0] <= until:
            when, turn, worker, report = heapq.heappop(self.events)
            if self.at.get(worker) != turn:
                continue  # it was given up before
            self.now = max(self.now, when)
            if isinstance(report, Finished):
                self.free[worker] = None
            return [report]
        self.now = until + 1e-3  # as real time does: a time-out that is just reached is not yet over
        return []

    def replace(self, worker: int) -> None:
        self.lost += 1
        self.at.pop(worker, None)
        self.free.pop(worker, None)
        heapq.heappush(self.coming, (self.now + self.trouble.come_up, worker))


def simulate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Blocks whose hardness is known roughly: hardest first by a guess that is wrong by a third."""
    troubles = {
        "none": Trouble(),
        "5 % of workers three times slower": Trouble(slow=0.05),
        "a worker lost every 10 h": Trouble(losses=0.1),
        "a worker lost every hour": Trouble(losses=1.0),
        "both": Trouble(slow=0.05, losses=1.0),
    }
    logging.getLogger("simplicit").setLevel(logging.ERROR)  # losses are what this is about
    rows = []
    for workers, blocks in ((32, 640), (128, 2560)):
        for label, trouble in troubles.items():
            for order in ("hardest first", "as they come"):
                found = [simulated(workers, blocks, trouble, order, seed) for seed in range(options.seeds)]
                ended = [run for run in found if run["ended"]]
                rows.append(
                    {
                        "workers": workers,
                        "blocks": blocks,
                        "trouble": label,
                        "order": order,
                        "runs": len(found),
                        "ended": len(ended),
                        "makespan": float(np.median([run["makespan"] for run in ended])),
                        "worst": float(np.max([run["makespan"] for run in ended])),
                        "lost": float(np.mean([run["lost"] for run in found])),
                    }
                )
                say(f"simulate: {workers} workers, {label}, {order}: {rows[-1]['makespan']:.2f} x ideal")
    return rows


def simulated(workers: int, blocks: int, trouble: Trouble, order: str, seed: int) -> dict[str, Any]:
    """One run: its time as a multiple of the work divided by the workers, all of them quick."""
    rng = np.random.default_rng(seed)
    seconds = 20 * rng.lognormal(sigma=0.6, size=blocks)
    guess = seconds * rng.lognormal(sigma=0.3, size=blocks)
    numbers = np.argsort(-guess) if order == "hardest first" else np.arange(blocks)
    executor = Simulated(workers, seconds, trouble, rng, driver=0.002)
    work = Parcels(blocks, 8)
    chosen = [work.blocks[number] for number in numbers]
    # The scheduler's clock is the executor's.
    with patch("simplicit.executors.running.time", SimpleNamespace(monotonic=lambda: executor.now)):
        try:
            for _ in run_blocks(executor, work, chosen, thorough=True):
                pass
            ended = True
        except sp.errors.ExecutionError:
            ended = False
    return {"ended": ended, "makespan": executor.now / (seconds.sum() / workers), "lost": executor.lost}
