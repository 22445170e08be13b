"""What benchmarks of pruning share: the lines of their tables, runs that go on where they were broken off, columns."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from results import say

from simplicit.studies.peers import PEERS

OURS = "simplicit"
Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A line of a table."""

    solver: str
    allocation: str = ""
    targets: str = ""  # "own" or "fit's"; "" where none are fitted
    norms: bool = True

    def __str__(self) -> str:
        if self.solver == OURS:
            return OURS
        parts = [PEERS[self.solver].title, f"{self.allocation} allocation"]
        parts += [f"{self.targets} targets"] if self.targets else []
        return ", ".join([*parts, "norms" if self.norms else "as published"])

    @property
    def file(self) -> str:
        """What files of this line are called by."""
        return str(self).replace(", ", "-").replace(" ", "-").replace("'", "")


def run_missing(
    tasks: Iterable[tuple[Any, Path]], run: Callable[[Any], Row], label: Callable[[Any], Row], workers: int
) -> None:
    """Run what has no file of its figures yet, so many at a time, each alone in a process; failures are figures too."""

    def one(task: Any, file: Path) -> None:
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                row = pool.submit(run, task).result()
        except Exception as error:
            row = label(task) | {"error": f"{type(error).__name__}: {error}"}
        draft = file.with_suffix(".partial")
        draft.write_text(json.dumps(row))
        draft.replace(file)
        say(json.dumps({name: value for name, value in row.items() if not isinstance(value, dict | list)}))

    with ThreadPoolExecutor(workers) as threads:
        for future in [threads.submit(one, task, file) for task, file in tasks if not file.exists()]:
            future.result()


def columns(
    rows: Sequence[Row], figure: str, headings: Mapping[Any, str], digits: int
) -> dict[str, Callable[..., str]]:
    """The names of lines, and a column of means and deviations for each value of ``wanted``, with its heading."""

    def at(wanted: Any) -> Callable[..., str]:
        def cell(name: str) -> str:
            cells = [row for row in rows if row["name"] == name and row["wanted"] == wanted]
            values = [row[figure] for row in cells if figure in row]
            if not values:
                return "failed" if cells else ""
            spread = f" ({stdev(values):.{digits}f})" if len(values) > 1 and digits else ""
            return f"{mean(values):.{digits}f}{spread}"

        return cell

    draws = {row["name"]: len({one["draw"] for one in rows if one["name"] == row["name"]}) for row in rows}
    most = max(draws.values(), default=0)

    def named(name: str) -> str:
        return name if draws[name] == most else f"{name} ({draws[name]} draw{'s' * (draws[name] > 1)})"

    return {"": named} | {heading: at(wanted) for wanted, heading in headings.items()}


def failures(rows: Sequence[Row]) -> list[str]:
    """A paragraph that names what failed, if anything did."""
    failed = [f"{row['name']}, {row['wanted']}, draw {row['draw']}: {row['error']}" for row in rows if "error" in row]
    return ["", "Failed: " + "; ".join(failed)] if failed else []
