"""How far a run is: what a callback gets after every step.

A run is a tree of *phases*: a fit has layers, a layer has its Gram matrix and its exchanges. Whoever wants to hear of
them is made the listener by :func:`listening`, once, where the run begins; the work itself opens a :func:`phase`, or
goes through its items :func:`counted`, wherever it is, and is told apart from nothing if nobody listens. A listener
hears in the thread that it was named in; workers are counted there as they come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

A = TypeVar("A")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    done, total : int
        Steps: row problems, where rows are solved, each member of a path and each re-weighted round counted; layers,
        batches of samples, attacks, epochs or repetitions elsewhere. A total of 0 is not known.
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
    elapsed : float
        Seconds since the stage's phase began.
    of : Progress or None
        The phase that this one is a part of: that of a layer is a part of the fit's.
    """

    done: int
    total: int
    resumed: int = 0
    rate: float = 0.0
    remaining: float | None = None
    worst_gap: float | None = None
    stage: str = "rows"
    message: str = ""
    elapsed: float = 0.0
    of: Progress | None = None

    @property
    def chain(self) -> tuple[Progress, ...]:
        """This phase after all that it is a part of, the outermost first."""
        return (*(() if self.of is None else self.of.chain), self)

    @property
    def note(self) -> str:
        """All but the stage and how many, for people."""
        parts = []
        if self.resumed:
            parts.append(f"{self.resumed:,} from the journal")
        if self.rate and self.worst_gap is not None:
            parts.append(f"{self.rate:,.3g} a second")
        if self.remaining:
            parts.append(f"{duration(self.remaining)} left")
        if self.done and self.worst_gap is not None:
            parts.append(f"worst gap {self.worst_gap:.1e}")
        return ", ".join(parts)

    def __str__(self) -> str:
        if self.message:
            return self.message
        return "; ".join(one.line for one in self.chain)

    @property
    def line(self) -> str:
        """This phase alone, for people: how many steps, and what is left, or for how long where that is not known."""
        many = f"{self.stage}: {self.done:,} of {self.total:,}" if self.total else self.stage
        since = "" if self.remaining is not None or self.elapsed < 1 else f"for {duration(self.elapsed)}"
        return ", ".join(filter(None, (many, self.note, since)))


#: What a run calls as it goes on.
OnProgress = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Phase:
    """Counts ``total`` steps of a ``stage``, 0 where they are not known, and tells the listener after each.

    Steps need not take alike: ``efforts`` say how they compare, for the estimate. With ``by_parts`` the steps of the
    phases within it are its own too.
    """

    def __init__(
        self, listener: _Listener, stage: str, total: int, efforts: Sequence[float] = (), *, by_parts: bool = False
    ) -> None:
        self.stage, self.total = stage, total
        self.done = self.resumed = 0
        self.worst_gap: float | None = None
        self._listener, self._efforts, self._by_parts = listener, efforts, by_parts
        self._begun = time.monotonic()

    def count(self, steps: int = 1, worst_gap: float | None = None, *, resumed: bool = False) -> None:
        """Count finished steps, done by this run or ``resumed``, with the largest relative gap of rows among them."""
        for phase in (self, *self._listener.counting_for(self)):
            phase.done += steps
            phase.resumed += steps if resumed else 0
            if worst_gap is not None:
                phase.worst_gap = max(phase.worst_gap or 0.0, worst_gap)
        self._listener.tell_of(self)

    def begin(self, stage: str) -> None:
        """Say which stage is under way from now on; no step is counted."""
        self.stage = stage
        self._listener.tell_of(self)

    @property
    def by_parts(self) -> bool:
        """Whether the steps of the phases within it are its own."""
        return self._by_parts

    def state(self, of: Progress | None) -> Progress:
        """How far it is now, as a part of another phase."""
        done, seconds = self.done - self.resumed, time.monotonic() - self._begun
        rate = done / max(seconds, 1e-9)
        remaining = (self.total - self.done) / rate if done and self.total else None
        if self._efforts and done:
            made, whole = sum(self._efforts[: self.done]), sum(self._efforts)
            remaining = seconds * (whole - made) / made if made else None
        gap, stage = self.worst_gap, self.stage
        return Progress(self.done, self.total, self.resumed, rate, remaining, gap, stage, elapsed=seconds, of=of)


class _Listener:
    """Somebody who hears of the phases that are open, of which each is a part of the one before."""

    def __init__(self, tell: OnProgress | None) -> None:
        self.tell, self.open = tell, list[Phase]()

    def counting_for(self, phase: Phase) -> Iterator[Phase]:
        """The phases that a phase's steps belong to as well, from the inside out."""
        if phase not in self.open:
            return
        for outer in reversed(self.open[: self.open.index(phase)]):
            if not outer.by_parts:
                return
            yield outer

    def tell_of(self, phase: Phase) -> None:
        """Tell how far a phase is, as a part of those that it lies in."""
        if self.tell is None:
            return
        found: Progress | None = None
        for one in self.open:
            found = one.state(found)
            if one is phase:
                break
        if found is not None:
            self.tell(found)

    def close(self, phase: Phase) -> None:
        """End a phase, and whatever was left open in it: an iterator that was given up says so late, or never."""
        if phase in self.open:
            del self.open[self.open.index(phase) :]


_LISTENER: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(tell: OnProgress | None) -> Iterator[None]:
    """Within the block phases are told to a callback; for None, to whom they were before, if anybody.

    To a callback that listens already, what is told is a part of the phase at hand.
    """
    current = _LISTENER.get()
    if tell is None or (current is not None and current.tell is tell):
        yield
        return
    token = _LISTENER.set(_Listener(tell))
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def phase(stage: str, total: int = 0, efforts: Sequence[float] = (), *, by_parts: bool = False) -> Iterator[Phase]:
    """A phase of the run at hand, told of at once; see :class:`Phase`."""
    listener = _LISTENER.get() or _Listener(None)
    own = Phase(listener, stage, total, efforts, by_parts=by_parts)
    listener.open.append(own)
    listener.tell_of(own)
    try:
        yield own
    finally:
        listener.close(own)


def counted(items: Iterable[A], stage: str, total: int) -> Iterator[A]:
    """The items, as a phase of so many steps: one is done when the next is asked for."""
    with phase(stage, total) as own:
        for item in items:
            yield item
            own.count()


def announce(message: str) -> None:
    """Tell at once what is to be read."""
    listener = _LISTENER.get()
    if listener is not None and listener.tell is not None:
        listener.tell(Progress(0, 0, message=message))
