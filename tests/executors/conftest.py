"""Executors that the tests share: processes and Ray take seconds to come up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any

import pytest

from simplicit.executors import EXECUTORS, Executor, Processes, Ray, Serial, Threads

# A cluster that several processes of ours make up: on the loopback, and with a token that all of them know. Ray reads
# this when it is imported.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


class Pools:
    """One executor of each kind with two workers, made when it is first asked for.

    Ray's joins ``cluster``: two nodes with a processor each, on this machine.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.made: dict[str, Executor] = {}

    @cached_property
    def cluster(self) -> Any:
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.stack.callback(made.shutdown)
        made.add_node(num_cpus=1)
        return made

    def new(self, name: str) -> Executor:
        """One that nobody shares."""
        if name == "ray":
            return Ray(workers=2, address=self.cluster.address)
        makers = {"serial": Serial, "threads": partial(Threads, workers=2), "processes": partial(Processes, workers=2)}
        return makers[name]()

    def __getitem__(self, name: str) -> Executor:
        if name not in self.made:
            self.made[name] = self.stack.enter_context(self.new(name))
        return self.made[name]


@pytest.fixture(scope="session")
def pools() -> Iterator[Pools]:
    with ExitStack() as stack:
        yield Pools(stack)


#: Ray starts a cluster and workers of its own: the tests of ``test_ray`` share one.
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] * (name == "ray")) for name in EXECUTORS]


@pytest.fixture(params=PARAMS)
def executor(request: pytest.FixtureRequest, pools: Pools) -> Executor:
    """Each executor, with two workers."""
    return pools[request.param]
