"""How far a run is: what a callback gets after every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    done, total : int
        Steps: row problems, where rows are solved, each member of a path and each re-weighted round counted; attacks,
        samples, epochs or repetitions elsewhere.
    resumed : int
        Of those done, how many came out of the journal.
    rate : float
        Steps a second, of those done by this run; 0 before the first.
    remaining : float or None
        Seconds to the end at that rate; None before there is one.
    worst_gap : float or None
        The largest relative duality gap so far; None where nothing is solved.
    stage : str
        What the steps belong to.
    message : str
        What is to be read at once, in place of all that: how much memory a fit takes, before it starts.
    """

    done: int
    total: int
    resumed: int = 0
    rate: float = 0.0
    remaining: float | None = None
    worst_gap: float | None = None
    stage: str = "rows"
    message: str = ""

    @property
    def note(self) -> str:
        """All but the stage and how many, for people."""
        parts = []
        if self.resumed:
            parts.append(f"{self.resumed:,} from the journal")
        if self.rate and self.worst_gap is not None:
            parts.append(f"{self.rate:,.3g} a second")
        if self.remaining:
            parts.append(f"{_duration(self.remaining)} left")
        if self.done and self.worst_gap is not None:
            parts.append(f"worst gap {self.worst_gap:.1e}")
        return ", ".join(parts)

    def __str__(self) -> str:
        return self.message or ", ".join(
            part for part in (f"{self.stage}: {self.done:,} of {self.total:,}", self.note) if part
        )


#: What a run calls as it goes on.
OnProgress = Callable[[Progress], None]


def within(tell: OnProgress | None, stage: str) -> OnProgress | None:
    """A callback for a run that is a stage of another one, whose callback is ``tell``; None for None."""
    if tell is None:
        return None
    return lambda state: tell(replace(state, stage=stage if state.stage == "rows" else f"{stage}, {state.stage}"))


def _duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Meter:
    """Counts ``total`` steps of a ``stage``, and calls ``tell``, if there is one, with :class:`Progress` after each."""

    def __init__(self, total: int, tell: OnProgress | None, stage: str = "rows") -> None:
        self.total, self.tell, self.stage = total, tell, stage
        self.begun = time.monotonic()
        self.done = self.resumed = 0
        self.worst_gap: float | None = None

    def count(self, steps: int = 1, worst_gap: float | None = None, *, resumed: bool = False) -> None:
        """Count finished steps, done by this run or ``resumed``, with the largest relative gap of rows among them."""
        self.done += steps
        self.resumed += steps if resumed else 0
        if worst_gap is not None:
            self.worst_gap = max(self.worst_gap or 0.0, worst_gap)
        self._report()

    def begin(self, stage: str) -> None:
        """Say which stage is under way from now on; no step is counted."""
        self.stage = stage
        self._report()

    def part(self, stage: str) -> OnProgress | None:
        """Return a callback for a run that is part of this one: its steps are counted here, under ``stage``."""
        if self.tell is None:
            return None
        before = self.done

        def report(state: Progress) -> None:
            self.done = before + state.done
            self.begin(f"{stage}: {state.stage}")

        return report

    def _report(self) -> None:
        if self.tell is None:
            return
        done, seconds = self.done - self.resumed, time.monotonic() - self.begun
        rate = done / max(seconds, 1e-9)
        remaining = (self.total - self.done) / rate if done else None
        self.tell(Progress(self.done, self.total, self.resumed, rate, remaining, self.worst_gap, self.stage))
