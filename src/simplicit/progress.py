"""How far a run is: what a callback is told after every finished block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Meter", "OnProgress", "OnStep", "Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    done, total : int
        Row problems, each member of a path and each re-weighted round counted.
    resumed : int
        Of those done, how many came out of the journal.
    rate : float
        Row problems a second, of those solved by this run; 0 before the first.
    remaining : float or None
        Seconds to the end at that rate; None before there is one.
    worst_gap : float
        The largest relative duality gap so far.
    stage : str
        What they belong to, where a run has several stages.
    """

    done: int
    total: int
    resumed: int = 0
    rate: float = 0.0
    remaining: float | None = None
    worst_gap: float = 0.0
    stage: str = "rows"

    def within(self, stage: str) -> Progress:
        """The same, as part of a stage: what was the whole becomes a step of it."""
        return replace(self, stage=stage if self.stage == "rows" else f"{stage}, {self.stage}")

    @property
    def note(self) -> str:
        """All but the stage and how many, for people."""
        parts = []
        if self.resumed:
            parts.append(f"{self.resumed:,} from the journal")
        if self.rate:
            parts.append(f"{self.rate:,.3g} a second")
        if self.remaining:
            parts.append(f"{_duration(self.remaining)} left")
        if self.done:
            parts.append(f"worst gap {self.worst_gap:.1e}")
        return ", ".join(parts)

    def __str__(self) -> str:
        return ", ".join(part for part in (f"{self.stage}: {self.done:,} of {self.total:,}", self.note) if part)


OnProgress = Callable[[Progress], None]
#: Called with a label, the steps done, and the steps in all: work whose steps are not rows.
OnStep = Callable[[str, int, int], None]


def _duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Meter:
    """Counts row problems and tells the callback, if there is one.

    Parameters
    ----------
    total : int
    tell : callable, optional
        Called with a :class:`Progress`.
    """

    def __init__(self, total: int, tell: OnProgress | None) -> None:
        self.total, self.tell = total, tell
        self.begun = time.monotonic()
        self.done = self.resumed = 0
        self.worst_gap = 0.0

    def count(self, rows: int, worst_gap: float, *, resumed: bool = False) -> None:
        """Count finished row problems with their largest relative gap, solved by this run or ``resumed``."""
        self.done += rows
        self.resumed += rows if resumed else 0
        self.worst_gap = max(self.worst_gap, worst_gap)
        if self.tell is not None:
            self.tell(self.progress)

    @property
    def progress(self) -> Progress:
        """How far it is now."""
        solved, seconds = self.done - self.resumed, time.monotonic() - self.begun
        rate = solved / max(seconds, 1e-9)
        remaining = (self.total - self.done) / rate if solved else None
        return Progress(self.done, self.total, self.resumed, rate, remaining, self.worst_gap)
