"""Executors run every task once, report failures, and leave thread settings as they found them."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import simplicit as sp
from simplicit.executors import EXECUTORS, make_executor


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_task_runs_once(name: str) -> None:
    results = dict(make_executor(name, 2).run(lambda x: x * x, list(range(20))))
    assert results == {i: i * i for i in range(20)}


@pytest.mark.parametrize("name", EXECUTORS)
def test_one_blas_thread_inside_and_the_old_number_after(name: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inside = {threads for _, threads in make_executor(name, 2).run(lambda _: torch.get_num_threads(), range(6))}
        assert inside == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("flushing", [False, True])
def test_denormals_are_zero_inside_and_as_before_after(name: str, flushing: bool) -> None:
    def smallest(_: object = None) -> float:
        return float(torch.tensor(2.0**-1022, dtype=torch.float64) / 2)

    torch.set_flush_denormal(flushing)
    try:
        assert {value for _, value in make_executor(name, 2).run(smallest, range(4))} == {0.0}
        assert (smallest() == 0.0) == flushing
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_first_failure_is_raised_and_waiting_tasks_do_not_start(name: str) -> None:
    started: list[int] = []

    def task(item: int) -> None:
        started.append(item)
        if item == 0:
            raise ValueError("task 0")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="task 0"):
        list(make_executor(name, 2).run(task, list(range(200))))
    assert len(started) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simplicit")]


def test_threads_really_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    assert len(list(make_executor("threads", 2).run(lambda _: both.wait(), range(2)))) == 2


def test_workers_default_to_the_processors() -> None:
    assert make_executor("threads").workers >= 1
    assert make_executor("serial", 7).workers == 1


def test_unknown_name_and_bad_workers() -> None:
    with pytest.raises(sp.InputError, match="'cluster' is unknown"):
        make_executor("cluster")
    for workers in (0, -1, True, 1.5):
        with pytest.raises(sp.InputError, match="workers must be an integer of at least 1"):
            make_executor("threads", workers)  # type: ignore[arg-type]
