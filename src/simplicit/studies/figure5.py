"""The paper's Figure 5 again: the same rows by every executor, in wall-clock time.

The rows are those of state matching on a bias-free network, all columns admissible: 112 rows on 896 columns for the
paper's 784-64-32-16-10. Each executor solves them cold, its workers to be started first, and warm, with the workers of
the call before; and a problem of no size, which shows what it costs to use it at all. The results must be equal, to the
bit.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, named, refused, spelled
from simplicit.data import Dataset
from simplicit.executors import EXECUTORS, Executor, as_executor
from simplicit.network import capture
from simplicit.progress import OnProgress, listening, phase
from simplicit.report import Bars, Table, draw_bars
from simplicit.rows import L1, Ball, Solution
from simplicit.runs.mlp import MlpSettings, parse_arch, train_mlp
from simplicit.runs.options import build
from simplicit.solve.front import solve_rows
from simplicit.studies.bench import check_available
from simplicit.studies.study import Study
from simplicit.training.states.data import state_data

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StateRows:
    """State matching without structure, problem (11) of the paper, with the first ``n_states`` columns in the ball.

    Rows Z, ``targets`` (m, r), all n state rows or some, stand on ``features`` [X U], (m, n + p).
    """

    features: Array
    targets: Array
    n_states: int
    weight: float = 0.1
    beta: float = 1e-3
    kappa: float = 0.99

    def solve(self, executor: Executor, **options: Any) -> Solution:
        """Solve all rows; one that is not certified is marked."""
        ball = Ball(self.kappa, slice(0, self.n_states))
        settings: dict[str, Any] = {"penalty": L1(self.beta), "weight": self.weight, "ball": ball, "throw": False}
        return solve_rows(self.features, self.targets, executor=executor, **(settings | options))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of rows, columns and samples."""
        return self.targets.shape[1], self.features.shape[1], self.features.shape[0]

    def shrunk(self) -> StateRows:
        """Return a problem of no size."""
        columns = slice(self.n_states - 4, self.n_states + 4)
        return StateRows(self.features[:32, columns].copy(), self.targets[:32, :4].copy(), 4)


@dataclass(frozen=True)
class Figure5Settings:
    """What is solved, by whom, and how often.

    Parameters
    ----------
    arch : tuple of int
        Widths of the hidden layers, such as 64-32-16; their sum is the number of rows.
    samples : int
        Training samples.
    executor : tuple of str
        Executors to measure. Repeat for several. Default: all that are installed.
    workers : int, optional
        Blocks at a time, of each executor. Default: one per processor.
    repeats : int
        Warm runs of each executor; the median counts.
    epochs : int
        Passes over the data in the training of the network.
    seed : int
        Of training and samples.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    """

    panel: ClassVar[str] = "What is measured"

    arch: tuple[int, ...] = field(default=(64, 32, 16), metadata=spelled(parse_arch, "-"))
    samples: int = 600
    executor: tuple[str, ...] = field(default=(), metadata=named(EXECUTORS))
    workers: int | None = None
    repeats: int = 3
    epochs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.executor:
            as_executor(name)
        for name in ("samples", "repeats"):
            as_count(name, getattr(self, name))
        if not self.arch:
            raise refused("arch", "a network without hidden layers has no state rows; give widths such as 64-32-16")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The executors that are measured: those asked for, or all that are installed."""
        if self.executor:
            return self.executor
        return tuple(name for name in EXECUTORS if name != "ray" or importlib.util.find_spec("ray") is not None)


@dataclass(frozen=True)
class Timed:
    """Wall-clock seconds of one executor on one problem.

    ``cold`` is the first call, its workers started for it, ``warm`` are the calls after that, ``close`` is the end of
    the workers. ``least_cold`` and ``least_warm`` are those of a problem of no size, on workers of its own and on those
    that are there: the fixed cost.
    """

    executor: str
    workers: int
    cold: float
    warm: tuple[float, ...]
    least_cold: float
    least_warm: float
    close: float

    @property
    def seconds(self) -> float:
        """The median of the warm calls."""
        return median(self.warm)


@dataclass(frozen=True)
class Figure5:
    """What was measured, on a problem whose shape is in rows, columns and samples."""

    settings: Figure5Settings
    shape: tuple[int, int, int]
    timed: tuple[Timed, ...]
    certified: int
    non_zeros: int
    largest_relative_gap: float

    def speedup(self, timed: Timed) -> float | None:
        """Return how many times faster than the serial executor one is, both warm; None if that was not measured."""
        serial = next((one for one in self.timed if one.executor == "serial"), None)
        return None if serial is None else serial.seconds / timed.seconds

    def figures(self) -> dict[str, Any]:
        """Return the document ``figure5.json``."""
        rows, columns, samples = self.shape
        return {
            "rows": rows,
            "columns": columns,
            "samples": samples,
            "certified": self.certified,
            "non_zeros": self.non_zeros,
            "largest_relative_gap": self.largest_relative_gap,
            "equal_to_the_bit": True,  # otherwise an error was raised
            "executors": [asdict(one) | {"seconds": one.seconds, "speedup": self.speedup(one)} for one in self.timed],
        }


def state_rows(data: Dataset, arch: tuple[int, ...], samples: int, *, epochs: int, seed: int) -> StateRows:
    """Train a network on the data and return its rows; InputError where there are fewer samples."""
    check_available(data, samples=samples)
    net = train_mlp(data, MlpSettings(arch=arch, bias=False, epochs=epochs, seed=seed))
    chosen = np.random.default_rng(seed).permutation(len(data.train_inputs))[:samples]
    captured = capture(net, data.train_inputs[chosen])
    found = state_data(captured.model, captured.states(data.train_inputs[chosen]), captured.weight_count)
    return StateRows(found.features, found.targets[:, : found.n_states], found.n_states)


def _executor(name: str, workers: int | None) -> Executor:
    """Return a new executor of that name, with so many workers if it has a choice."""
    found: Executor = build(EXECUTORS[name], {} if workers is None else {"workers": workers})
    return found


def time_executor(rows: StateRows, name: str, workers: int | None, repeats: int) -> tuple[Timed, Solution]:
    """Measure one executor; the solution is that of the cold run, and all others must equal it.

    InputError is raised for an unknown name or fewer than one worker, MissingExtraError where Ray is wanted and not
    installed, AssertionError where a run ends with other coefficients than the one before.
    """
    least = rows.shrunk()
    begun = time.perf_counter()
    with _executor(name, workers) as executor:
        least.solve(executor)
    least_cold = time.perf_counter() - begun
    begun = time.perf_counter()
    executor = _executor(name, workers)
    with executor:
        solution = rows.solve(executor)
        cold = time.perf_counter() - begun
        warm = []
        for _ in range(repeats):
            begun = time.perf_counter()
            check_equal(rows.solve(executor), solution)
            warm.append(time.perf_counter() - begun)
        least_warm = []
        for _ in range(3):
            begun = time.perf_counter()
            least.solve(executor)
            least_warm.append(time.perf_counter() - begun)
        n_workers, begun = executor.n_workers, time.perf_counter()
    close = time.perf_counter() - begun
    return Timed(name, n_workers, cold, tuple(warm), least_cold, median(least_warm), close), solution


def check_equal(one: Solution, other: Solution) -> None:
    """Raise AssertionError unless two solutions are equal to the bit."""
    for name in ("data", "indices", "indptr"):
        if not np.array_equal(getattr(one.coefficients, name), getattr(other.coefficients, name)):
            raise AssertionError("executors: the coefficients of two runs differ")


def run_figure5(data: Dataset, settings: Figure5Settings, *, progress: OnProgress | None = None) -> Figure5:
    """Measure every executor, a step of the progress each, on the rows of a network trained on the data.

    What is raised is as for :func:`time_executor` and :func:`state_rows`.
    """
    timed, first = list[Timed](), None
    with listening(progress), phase("executors", len(settings.chosen)) as meter:
        rows = state_rows(data, settings.arch, settings.samples, epochs=settings.epochs, seed=settings.seed)
        for name in settings.chosen:
            meter.begin(name)
            one, solution = time_executor(rows, name, settings.workers, settings.repeats)
            timed.append(one)
            first = first or solution
            check_equal(solution, first)
            meter.count()
    assert first is not None
    return Figure5(
        settings=settings,
        shape=rows.shape,
        timed=tuple(timed),
        certified=int(first.converged.sum()),
        non_zeros=int(first.coefficients.nnz),
        largest_relative_gap=float(first.relative_gap.max(initial=0.0)),
    )


def figure5_study(found: Figure5) -> Study:
    """Return what is kept and shown of the study: seconds by executor, as a table and as a picture."""
    rows, columns, samples = found.shape
    size = f"{rows:,} rows × {columns:,} columns, {samples:,} samples"
    return Study(
        name="figure5",
        title="Figure 5 of the paper, again: the same rows by every executor",
        settings=asdict(found.settings),
        figures=found.figures(),
        seconds={one.executor: one.cold + sum(one.warm) for one in found.timed},
        tables=[
            Table(
                f"{size}, {found.certified:,} certified; seconds",
                ("executor", "workers", "warm", "speed-up", "cold", "fixed, warm", "fixed, cold"),
                [_cells(found, one) for one in found.timed],
            )
        ],
        notes=["All coefficients are equal, to the bit."],
        draw=lambda path: _draw(found, size, path),
        packages=("ray",) if "ray" in found.settings.chosen else (),
    )


def _cells(found: Figure5, one: Timed) -> list[str]:
    factor = found.speedup(one)
    return [
        one.executor,
        str(one.workers),
        f"{one.seconds:.3f}",
        "" if factor is None else f"× {factor:.2f}",
        f"{one.cold:.3f}",
        f"{one.least_warm:.3f}",
        f"{one.least_cold:.3f}",
    ]


def _draw(found: Figure5, size: str, path: Path) -> None:
    cold, fixed, warm = (
        {one.executor: getattr(one, name) for one in found.timed} for name in ("cold", "least_cold", "seconds")
    )
    draw_bars(path, Bars("First call, workers started for it", cold, fixed), Bars(f"Next calls: {size}", warm))
