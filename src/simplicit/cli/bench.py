"""``simplicit bench``: how fast the network of a run is, by several ways to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simplicit.cli.console import saved, show_progress, shown
from simplicit.cli.shared import OtherSource, Output
from simplicit.progress import phase
from simplicit.runs.bench import BenchSettings, run_bench
from simplicit.runs.bench.measuring import PICTURE
from simplicit.runs.bench.subject import open_bench_subject
from simplicit.runs.bench.tables import speed_table, ways_table


def bench(
    run: Path,
    /,
    settings: BenchSettings = BenchSettings(),
    source: OtherSource = OtherSource(),
    output: Output = Output(),
) -> None:
    """Measure how fast a run's network is: as dense torch, accelerated, compacted, by ONNX Runtime.

    All ways take the same samples, the first of the test samples, in turn, so that a busy machine is as unjust to all;
    figures are medians with quartiles, and how many times as fast as dense torch. Beside them stand how far outputs are
    from dense torch's, the bytes of the weights that each holds, as tensors or in its file (not what a process takes
    besides), and the bytes of files. A way that cannot be taken here, such as ONNX without its extra, is left out and
    said. With --output, bench.json, run.json and a picture are written too, and `simplicit report` shows them.

    Example: `simplicit bench runs/fit --batch 1 --batch 64 --output runs/bench`

    Parameters
    ----------
    run : Path
        Folder that `simplicit fit` or `simplicit baseline` wrote.
    settings, source, output
    """
    output.check("bench", [run])
    with show_progress() as steps:
        with phase(f"reading {run}"):
            subject = open_bench_subject(run, **vars(source))
        found = run_bench(run, subject, settings, progress=steps)
        if output.output is not None:
            with phase("drawing"):
                found.save(output.output, **output.saving())
    where = []
    if output.output is not None:
        where = [saved(output.output, PICTURE)]
    document: dict[str, Any] = found.results()
    notes = [f"Left out: {name}: {why}." for name, why in found.left_out.items()]
    output.show(document, shown(speed_table(document)), "", shown(ways_table(document)), "", *notes, *where)
