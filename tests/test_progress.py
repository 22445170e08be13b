"""Phases: what a listener hears of them, and when."""

from __future__ import annotations

import threading

import pytest

from simplicit import progress
from simplicit.progress import Progress, announce, counted, duration, listening, phase


def test_phases_are_parts_of_one_another() -> None:
    heard: list[Progress] = []
    with listening(heard.append), phase("fit", 2) as fit:
        for _ in counted("ab", "exchange", 2):
            pass
        fit.count()
    assert [str(one) for one in heard][:3] == ["fit: 0 of 2", "fit: 0 of 2; exchange: 0 of 2", str(heard[2])]
    assert [(one.stage, one.done) for one in heard] == [
        ("fit", 0),
        ("exchange", 0),
        ("exchange", 1),
        ("exchange", 2),
        ("fit", 1),
    ]
    assert [one.stage for one in heard[2].chain] == ["fit", "exchange"]
    assert heard[-1].of is None


def test_nobody_hears_after_the_block_or_without_one() -> None:
    heard: list[Progress] = []
    with listening(heard.append):
        pass
    with phase("fit", 1) as fit:
        fit.count()
    announce("unheard")
    assert heard == []


def test_the_same_listener_goes_on_and_another_one_takes_over() -> None:
    first, second = list[Progress](), list[Progress]()
    tell = first.append
    with listening(tell), phase("outer"):
        with listening(tell), phase("inner"):
            pass
        with listening(None), phase("inner too"):
            pass
        with listening(second.append), phase("other"):
            pass
    assert [str(one) for one in first] == ["outer", "outer; inner", "outer; inner too"]
    assert [str(one) for one in second] == ["other"]


def test_steps_of_parts_count_for_the_whole() -> None:
    heard: list[Progress] = []
    with listening(heard.append), phase("models", 4, by_parts=True):
        for name in "ab":
            with phase(name, 2) as own:
                own.count(2, worst_gap=1e-7, resumed=name == "a")
                for _ in counted(range(3), "steps of its own", 3):
                    pass
    whole = [one.chain[0] for one in heard]
    assert (whole[-1].done, whole[-1].resumed, whole[-1].worst_gap) == (4, 2, 1e-7)


def test_an_iterator_that_is_given_up_ends_its_phase() -> None:
    heard: list[Progress] = []
    with listening(heard.append):
        left = counted(range(3), "abandoned", 3)
        with phase("fit"):
            next(left)
        with phase("after"):
            pass
    assert [str(one) for one in heard] == ["fit", "fit; abandoned: 0 of 3", "after"]


def test_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    heard: list[Progress] = []
    with listening(heard.append), phase("rows", 4) as rows, phase("layers", 3, (70.0, 20.0, 10.0)) as layers:
        now[0] = 14.0
        layers.count()
        rows.count()
        now[0] = 30.0
        layers.begin("layers again")
    assert heard[2].remaining == pytest.approx(14 * 30 / 70)  # not 28: the first one was most of the work
    assert heard[3].remaining == pytest.approx(42.0)
    assert heard[4].remaining is not None
    assert heard[4].of is not None
    assert heard[4].of.elapsed == 30.0
    assert heard[4].of.remaining == pytest.approx(90.0)


def test_other_threads_are_not_heard() -> None:
    heard: list[Progress] = []

    def work() -> None:
        with phase("elsewhere", 1) as own:
            own.count()

    with listening(heard.append):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert heard == []


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 59.4, 75, 3720)] == ["0 s", "59 s", "1 min 15 s", "1 h 02 min"]
