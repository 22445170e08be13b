"""What the peers share: their problem, two processes, and a tolerance that is tightened until it suffices."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import numpy.typing as npt
from measures import measure

Array = npt.NDArray[np.float64]
#: A row solver of a peer: a target (m,) to coefficients (d,) over the columns that are not zero.
RowSolver = Callable[[Array], Array]

PROCESSES = 2
TOL = 1e-6


@dataclass(frozen=True)
class Rows:
    """min λ‖z − Φw‖² + β‖w‖₁ for every column z of the targets; ‖w_J‖₁ ≤ κ on the first `n_ball` columns, or free.

    Attributes
    ----------
    features : (m, d) array
    targets : (m, r) array
    weight, beta : float
    kappa : float or None
    n_ball : int
    """

    features: Array
    targets: Array
    weight: float
    beta: float
    kappa: float | None
    n_ball: int

    @property
    def alpha(self) -> float:
        """β in the units of 1/(2m)‖z − Φw‖² + α‖w‖₁."""
        return self.beta / (2 * self.weight * len(self.features))


def relative_gap(rows: Rows, target: Array, w: Array) -> float:
    """The benchmark's own relative duality gap of one row without the ball."""
    measured = measure(rows.features, target[:, None], w[None], rows.weight, rows.beta, None, 0)
    return float(measured.relative[0])


def until_certified(
    rows: Rows, target: Array, solve: Callable[[float, Array | None], Array], start: float, step: float = 0.1
) -> Array:
    """Tighten a solver's own tolerance, each time from the coefficients before, until the gap is at most 1e-6.

    Gives up after nine times with the last coefficients, whose gap then shows in the figures.

    Parameters
    ----------
    rows : Rows
    target : (m,) array
    solve : callable
        (tolerance, coefficients to begin from or None) to coefficients.
    start, step : float
        First tolerance and the factor from one to the next.
    """
    tolerance = start
    w = solve(tolerance, None)
    for _ in range(8):
        if relative_gap(rows, target, w) <= TOL:
            break
        tolerance *= step
        w = solve(tolerance, w)
    return w


def by_two_processes(
    prepare: Callable[[Rows], RowSolver], rows: Rows, deadline: float
) -> Iterator[tuple[list[int], Array]]:
    """Yield ([row], coefficients (1, d)) as two processes finish them, each taking the next row when it has done one.

    What the rows have in common, such as a Gram matrix, is prepared once, before the processes fork. Columns that are
    zero are left out, as some peers divide by their norm.

    Parameters
    ----------
    prepare : callable
        Rows to a function that solves one row.
    rows : Rows
    deadline : float
        On the clock of time.perf_counter.

    Raises
    ------
    TimeoutError
        After the deadline.
    RuntimeError
        A row raised an exception, or a process died.
    """
    live = np.any(rows.features, axis=0)
    solver = prepare(Rows(np.asfortranarray(rows.features[:, live]), rows.targets, rows.weight, rows.beta, None, 0))
    fork = multiprocessing.get_context("fork")
    taken = fork.Value("q", 0)
    ends = [fork.Pipe(duplex=False) for _ in range(PROCESSES)]
    workers = [fork.Process(target=_work, args=(solver, rows.targets, taken, end), daemon=True) for _, end in ends]
    for worker, (_, end) in zip(workers, ends, strict=True):
        worker.start()
        end.close()
    waiting = [receiver for receiver, _ in ends]
    try:
        while waiting:
            ready = wait(waiting, timeout=max(deadline - time.perf_counter(), 0.0))
            if not ready:
                raise TimeoutError
            for receiver in [one for one in waiting if one in ready]:
                row, w = _received(receiver)
                if row < 0:
                    waiting.remove(receiver)
                    continue
                full = np.zeros((1, len(live)))
                full[0, live] = w
                yield [row], full
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def _work(solver: RowSolver, targets: Array, taken: Any, end: Connection) -> None:
    """One process: send (row, coefficients) until no row is left, then (-1, None); an exception as its text."""
    warnings.simplefilter("ignore")  # a tolerance that is not reached shows in the gap
    try:
        while True:
            with taken.get_lock():
                row, taken.value = taken.value, taken.value + 1
            if row >= targets.shape[1]:
                end.send((-1, None))
                return
            end.send((row, solver(np.ascontiguousarray(targets[:, row]))))
    except Exception as error:
        end.send((-1, f"{type(error).__name__}: {error}"))


def _received(receiver: Connection) -> tuple[int, Any]:
    try:
        row, value = receiver.recv()
    except EOFError:
        raise RuntimeError("a process ended before its rows were solved") from None
    if isinstance(value, str):
        raise RuntimeError(value)
    return row, value
