"""Workers that die, hang, stop, or lose their node: no block is lost with them, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import simplicit as sp
from simplicit.executors import Deadline, Executor, run_blocks
from simplicit.executors.running import RETRIES
from toy import ToyWork, expected

REPLACING = ["processes", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(params=REPLACING)
def pool(request: pytest.FixtureRequest, pools: Any) -> Executor:
    made: Executor = pools[request.param]
    return made


def solved(
    executor: Executor, work: ToyWork, *, seconds: float | None = None, then: Callable[[int], None] = lambda _: None
) -> None:
    """Solve a work, every block once, and do something after each."""
    results = {}
    for block, result in run_blocks(executor, work, work.blocks, deadline=Deadline(seconds)):
        assert block.number not in results
        results[block.number] = result.sums.tolist()
        then(len(results))
    assert results == {block.number: expected(work, block) for block in work.blocks}


def test_a_block_whose_worker_dies_goes_to_another(
    pool: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solved(pool, ToyWork(6, do={2: "die once"}, folder=tmp_path))
    assert "the block with rows 6 to 8 goes to another one" in caplog.text
    if isinstance(pool, sp.Processes):
        assert "was killed by signal 9, SIGKILL (out of memory?)" in caplog.text


def test_a_block_that_kills_every_worker_is_given_up_and_named(pool: Executor) -> None:
    work = ToyWork(4, do={1: "die"})
    lost = rf"rows 3 to 5: {RETRIES + 1} workers were lost on them, the last one was (killed|lost).*smaller blocks"
    with pytest.raises(sp.errors.ExecutionError, match=lost):
        solved(pool, work)
    solved(pool, ToyWork(2))


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(pool: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solved(pool, ToyWork(4, do={1: "hang once"}, folder=tmp_path), seconds=2.0)
    assert "A worker has not answered for 2 s; the block with rows 3 to 5" in caplog.text


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_ended(pools: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solved(pools["processes"], ToyWork(4, do={0: "stop once"}, folder=tmp_path), seconds=2.0)
    assert "has not answered for 2 s" in caplog.text


def test_workers_killed_while_they_wait_are_replaced(pools: Any) -> None:
    executor = pools["processes"]
    solved(executor, ToyWork(3))
    for worker in executor._pool.workers.values():
        if worker.process is not None:  # one may not have come up yet
            os.kill(worker.process, signal.SIGKILL)
    solved(executor, ToyWork(3))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between", pytest.param("within", marks=pytest.mark.slow)])
def test_the_process_that_workers_come_from_is_killed(pools: Any, when: str, tmp_path: Path) -> None:
    executor = pools["processes"]
    solved(executor, ToyWork(3))

    def kill(_: int = 1) -> None:
        if _ == 1:
            os.kill(executor._pool.server.process.pid, signal.SIGKILL)

    if when == "between":
        kill()
    # One worker dies, and with it the others: they cannot be replaced but by another fork server.
    work = ToyWork(9, do={4: "die once"} | dict.fromkeys((5, 6, 7, 8), "slow"), folder=tmp_path)
    solved(executor, work, then=kill if when == "within" else lambda _: None)


def test_the_limit_learns_from_what_blocks_took() -> None:
    deadline = Deadline()
    assert deadline.limit == Deadline.FIRST
    deadline.observe(0.5)
    assert deadline.limit == Deadline.LEAST
    deadline.observe(10.0)
    deadline.observe(1.0)
    assert deadline.limit == 200.0
    assert Deadline(3.0, longest=100.0).limit == 3.0


def test_workers_that_never_come_up_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters that cannot import what they need: each dies at once."""
    with sp.Processes(workers=1) as executor:
        monkeypatch.setattr("simplicit.executors.forkserver._CODE", "raise SystemExit(3)")
        with pytest.raises(
            sp.errors.ExecutionError, match=r"5 workers of Processes\(.*\) were lost in a row.*never came up"
        ):
            solved(executor, ToyWork(2))


def test_nobody_waits_for_a_worker_that_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.executors.running.START_SECONDS", 0.5)
    with sp.Processes(workers=1) as executor:
        monkeypatch.setattr("simplicit.executors.forkserver._CODE", "import time; time.sleep(1000)")
        with pytest.raises(sp.errors.ExecutionError, match=r"no worker of Processes\(.*\) has come up within 0 s"):
            solved(executor, ToyWork(2))


@pytest.mark.slow
def test_a_node_is_lost_in_mid_run(pools: Any) -> None:
    """Two nodes with a worker each; one goes, the other one does the rest."""
    pytest.importorskip("ray")
    executor, cluster = pools["ray"], pools.cluster
    node = next(iter(cluster.worker_nodes))

    def lose(done: int) -> None:
        if done == 3:
            cluster.remove_node(node, allow_graceful=False)

    work = ToyWork(12, do=dict.fromkeys(range(12), "slow"))
    begun = time.monotonic()
    try:
        solved(executor, work, then=lose)
        assert time.monotonic() - begun < 60
    finally:
        cluster.add_node(num_cpus=1)
    solved(executor, ToyWork(3))
