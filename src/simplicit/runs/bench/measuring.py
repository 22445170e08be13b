"""What ``simplicit bench`` measures: all ways to run a network, in turn, at every batch size; and its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from simplicit.checks import as_count, as_number, check_choice, named, refused
from simplicit.errors import SimplicitError, first_line
from simplicit.files import write_json
from simplicit.machine import check_memory
from simplicit.progress import OnProgress, listening, phase
from simplicit.report import SpeedLine, can_draw, draw_speed
from simplicit.runs.bench.subject import BenchSubject, dtype_of
from simplicit.runs.bench.ways import DENSE, WAYS, Made
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runtime.formats.measuring import Spread, spreads

DOCUMENT, PICTURE = "bench.json", "speed.png"


@dataclass(frozen=True)
class BenchSettings:
    """How a network's speed is measured.

    Parameters
    ----------
    batch : tuple of int
        Samples in a call. Repeat for several.
    way : tuple of str
        Ways to run the network, beside dense torch. Repeat for several. Default: all.
    seconds : float
        Of every way at every batch size; three rounds are measured even where they take longer.
    threads : int, optional
        Of every way. Default: as many as torch takes here.
    """

    panel: ClassVar[str] = "Measurements"

    batch: tuple[int, ...] = (1, 16, 128, 1024)
    way: tuple[str, ...] = field(default=(), metadata=named(WAYS))
    seconds: float = 1.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.batch:
            raise refused("batch", "name at least one number of samples")
        for samples in self.batch:
            as_count("batch", samples)
        for name in self.way:
            check_choice("way", name, WAYS)
        as_number("seconds", self.seconds, positive=True)
        if self.threads is not None:
            as_count("threads", self.threads)

    @property
    def batches(self) -> list[int]:
        """The batch sizes, each once, from the smallest."""
        return sorted({*self.batch})

    @property
    def ways(self) -> list[str]:
        """The names of the ways in the order of their table, dense torch first."""
        return [name for name in WAYS if name == DENSE or not self.way or name in self.way]


@dataclass(frozen=True)
class Measurement:
    """One way at one batch size: the seconds of a call, and how far its outputs are from dense torch's.

    ``difference`` is the largest one, relative to the largest output.
    """

    way: str
    batch: int
    spread: Spread
    difference: float


@dataclass(frozen=True)
class BenchRun:
    """What was measured of the network of the run in a folder.

    Attributes
    ----------
    run : Path
    settings : BenchSettings
    subject : BenchSubject
    threads : int
    made : mapping of str to Made
        The ways that could be made, by name.
    measurements : sequence of Measurement
        By batch size, then by way.
    left_out : mapping of str to str
        Why a way, or one at a batch size ("onnx at 128"), was not measured.
    seconds : float
    """

    run: Path
    settings: BenchSettings
    subject: BenchSubject
    threads: int
    made: Mapping[str, Made]
    measurements: Sequence[Measurement]
    left_out: Mapping[str, str]
    seconds: float

    @property
    def files(self) -> dict[str, int]:
        """The bytes of files, by what they are."""
        return {name: size for made in self.made.values() for name, size in made.files.items()}

    def results(self) -> dict[str, Any]:
        """The document: ``ratio`` is how many times as fast as dense torch a way is, at the medians."""
        weights = [value for value in self.subject.net.parameters() if value.ndim >= 2]
        return {
            "run": self.run,
            "data": self.subject.data,
            "dtype": str(dtype_of(self.subject.net)).removeprefix("torch."),
            "threads": self.threads,
            "settings": self.settings,
            "non_zeros": sum(int(value.count_nonzero()) for value in weights),
            "weights": sum(value.numel() for value in weights),
            "files": self.files,
            "ways": [
                {"name": name, "title": WAYS[name].title, "weight_bytes": made.weight_bytes, "note": made.note}
                for name, made in self.made.items()
            ],
            "measurements": [self._row(one) for one in self.measurements],
            "left_out": dict(self.left_out),
        }

    def _row(self, one: Measurement) -> dict[str, Any]:
        dense = next(other.spread for other in self.measurements if (other.way, other.batch) == (DENSE, one.batch))
        median = one.spread.median
        rates = {"samples_per_second": one.batch / median, "ratio": dense.median / median}
        return {"way": one.way, "batch": one.batch} | asdict(one.spread) | rates | {"difference": one.difference}

    def save(self, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write ``bench.json``, ``run.json`` and, with the extra ``report``, ``speed.png`` into a folder."""
        document = self.results()
        with run_folder(folder, overwrite=overwrite, kind="bench", inputs=[self.run]) as draft:
            write_json(draft / DOCUMENT, document)
            if can_draw():
                draw_speed(draft / PICTURE, speed_lines(document))
            Manifest(
                "bench",
                command=command,
                settings=vars(self.settings),
                inputs=self.subject.provenance,
                seconds={"bench": self.seconds},
                packages=("onnx", "onnxruntime") if any(name.startswith("onnx") for name in self.made) else (),
            ).write(draft)


def speed_lines(document: Mapping[str, Any]) -> list[SpeedLine]:
    """The lines of a picture, one for each way, of what :meth:`BenchRun.results` returned."""
    lines = []
    for way in document["ways"]:
        rows = [row for row in document["measurements"] if row["way"] == way["name"]]
        if not rows:
            continue  # it failed at every batch size
        columns = [[row[name] for row in rows] for name in ("batch", "median", "lower", "upper", "ratio")]
        lines.append(SpeedLine(str(way["title"]), *columns))
    return lines


def run_bench(
    run: Path, subject: BenchSubject, settings: BenchSettings, *, progress: OnProgress | None = None
) -> BenchRun:
    """Measure the network of the run in a folder, as :func:`open_bench_subject` opened it.

    The steps of ``progress`` are the ways that are made and the batch sizes. InputError is raised where a batch takes
    more memory than there is, or the network does not take one; what one of the other ways refuses is said in
    ``left_out``.
    """
    begun, batches = time.perf_counter(), settings.batches
    check_memory("batch", subject.bytes_of(batches[-1]), f"{batches[-1]:,} samples need", "take fewer samples")
    left_out, made, found = dict[str, str](), dict[str, Made](), list[Measurement]()
    steps = len(settings.ways) + len(batches)
    with listening(progress), phase("measuring", steps) as meter, _threads(settings.threads) as threads:
        for name in settings.ways:
            meter.begin(f"making ready: {WAYS[name].title}")
            try:
                made[name] = WAYS[name].make(subject, batches)
            except SimplicitError as error:
                if name == DENSE:
                    raise
                left_out[name] = str(error)
            meter.count()
        for batch in batches:
            meter.begin(f"{batch:,} samples a call")
            found += _at(batch, made, settings, left_out)
            meter.count()
    return BenchRun(run, settings, subject, threads, made, found, left_out, time.perf_counter() - begun)


def _at(
    batch: int, made: Mapping[str, Made], settings: BenchSettings, left_out: dict[str, str]
) -> Iterator[Measurement]:
    """All ways at a batch size; those that fail there are put into ``left_out``."""
    calls, differences = dict[str, Callable[[], Any]](), dict[str, float]()
    expected = torch.zeros(0)
    for name, one in made.items():
        try:
            call = one.call(batch)
            with torch.no_grad():
                outputs = one.flat(call(), batch).double()
            expected = outputs if name == DENSE else expected
            differences[name] = float((outputs - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
        except Exception as error:  # the user's own code, or a runtime's, can raise anything
            if name == DENSE:
                raise refused("batch", f"the network does not take {batch} samples ({first_line(error)})") from error
            left_out[f"{name} at {batch}"] = first_line(error)
            continue
        calls[name] = call
    measured = spreads(calls, settings.seconds * len(calls))
    return (Measurement(name, batch, measured[name], differences[name]) for name in calls)


@contextmanager
def _threads(count: int | None) -> Iterator[int]:
    """So many threads for torch meanwhile, as many as it has for None."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
