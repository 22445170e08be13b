"""The recipe Sparse on transformers and ResNet-20 beside pruning methods: the score, agreement with the dense network
on held-out samples, and time.

    python benchmarks/one_shot.py            # hours on 2 cores; `--only vit` a few minutes; see --help

First `make census-env`, whose environment has the networks' packages, and `python benchmarks/train_gpt2.py` for the
byte-level GPT-2 (`--gpt2` names its folder). Networks and samples are in benchmarks/subjects.py: all-MiniLM-L6-v2 and a
vision transformer at sparsities and at 2:4, GPT-2 as well, and ResNet-20. WoodFisher's ResNet-20 is there where
`--woodfisher` names its checkpoint.

All methods have the same samples of a draw and the same layers, and run one after another, each in a process of its
own with all cores, so that their times compare. A method is named by its allocation over layers (uniform, global by
size, or that of fit) and its targets: its own, which are the dense weights on the layer's inputs in the network pruned
so far, or fit's. "as published" leaves biases and batch norms as they are; "norms" corrects them as fit does. At 2:4
every linear layer has the pattern whose inputs four divides, and the other ones stay dense. Finished models are kept in
--parts, from which a broken-off run goes on. Prints the tables and writes results/one_shot.json and one_shot.md there.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning import OURS, Method, Row, columns, failures, run_missing
from results import arguments, command, grid, keep, machine, ran_on, source_digest
from subjects import PATTERN, SUBJECTS, Places, Subject
from torch import nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.studies.peers import PEERS, Network, Pattern
from simplicit.training.channels.samples import samples_of

#: What each network's parts are called by, beside a sparsity, a draw and a line.
Task = tuple[str, Places, str, int, Method, Path]
TWO_OF_FOUR = Pattern(2, 4)


def methods(at: str) -> list[Method]:
    """All lines at a sparsity or a pattern, in the order of the table; a pattern is its own allocation."""
    lines = [
        Method(OURS),
        *(Method(solver, "fit's", "fit's") for solver in ("alps", "sparsegpt", "sparseswaps")),
        *(Method(solver, "uniform", "own", norms=False) for solver in ("alps", "sparsegpt")),
        *(Method(solver, "fit's", "", norms=True) for solver in ("wanda", "magnitude")),
        *(Method(solver, "uniform", "", norms=False) for solver in ("sparseswaps", "wanda", "magnitude")),
        Method("magnitude", "global", "", norms=False),
    ]
    if at != PATTERN:
        return lines
    return [line if line.solver == OURS else replace(line, allocation=PATTERN) for line in lines[:-1]]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SUBJECTS), help="networks; all that there are, if left out")
    parser.add_argument("--draws", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--at", nargs="*", help="sparsities in per cent, or 2:4; all of a network's if left out")
    parser.add_argument("--lines", nargs="*", help="solvers, such as alps; all if left out")
    parser.add_argument("--gpt2", type=Path, default=Path("build/gpt2_bytes"), help="folder of train_gpt2.py")
    parser.add_argument("--texts", type=Path, default=Path("build/texts"), help="where texts are kept")
    parser.add_argument("--woodfisher", type=Path, help="its checkpoint, resnet20_cifar10.pth.tar")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path("build/one_shot") / source_digest(),
        help="folder of finished models (default: one for this state of the code)",
    )
    parser.add_argument("--tables", action="store_true", help="run nothing, only write the tables of what is finished")
    parser.add_argument("--note", default="", help="what the tables should say of the circumstances")
    options = parser.parse_args()
    options.parts.mkdir(parents=True, exist_ok=True)
    places = Places(options.data_dir, options.gpt2, options.texts, options.woodfisher)
    chosen = options.only or [name for name in SUBJECTS if name != "woodfisher" or options.woodfisher]
    report: dict[str, Any] = {"command": command(), "machine": machine(), "note": options.note, "networks": {}}
    for name in chosen:
        subject = SUBJECTS[name](places)
        wanted = [at for at in subject.at if options.at is None or at in options.at]
        own = [*tasks(name, places, wanted, options)]
        if not options.tables:
            run_missing(own, run, labelled, workers=1)
        rows = [json.loads(file.read_text()) for _, file in own if file.exists()]
        dense = subject.dense()
        report["networks"][name] = {"at": wanted, "dense": subject.measured(dense, dense), "rows": rows}
    keep(options.output, "one_shot", report, page(report, places))


def tasks(name: str, places: Places, wanted: list[str], options: argparse.Namespace) -> Iterator[tuple[Task, Path]]:
    """Everything that is to be run for a network, ours first, with the files of its figures."""
    for draw in options.draws:
        for at in wanted:
            for method in methods(at):
                if options.lines is None or method.solver in (OURS, *options.lines):
                    yield (name, places, at, draw, method, options.parts), _file(options.parts, name, at, draw, method)


def _file(parts: Path, name: str, at: str, draw: int, method: Method) -> Path:
    return parts / f"{name}-{at.replace(':', 'of')}-{draw}-{method.file.replace(':', 'of')}.json"


def labelled(task: Task) -> Row:
    """What a row says of its task."""
    _, _, at, draw, method, _ = task
    return {"name": line(method), "wanted": at, "draw": draw}


def line(method: Method) -> str:
    """A line's name, the same at a pattern as at the sparsities: what is uniform there has the pattern here."""
    if method.allocation != PATTERN:
        return str(method)
    allocation = "fit's" if method.norms else "uniform"
    return str(replace(method, allocation=allocation))


def run(task: Task) -> Row:
    """One network: made, and measured."""
    name, places, at, draw, method, parts = task
    subject = SUBJECTS[name](places)
    dense, inputs = subject.dense(), subject.drawn(draw)
    begun = time.perf_counter()
    if method.solver == OURS:
        options: dict[str, Any] = {"pattern": at} if at == PATTERN else {"sparsity": float(at)}
        result = sp.fit(dense, inputs, sp.Sparse(**options))
        found, layers = result.network(), {layer.name: layer.non_zeros for layer in result.layers}
    else:
        ours = _file(parts, name, at, draw, Method(OURS))
        found, layers = peer(dense, inputs, at, method, ours)
    seconds = time.perf_counter() - begun
    return labelled(task) | {
        "seconds": seconds,
        "processor_seconds": time.process_time(),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "non_zeros": sum(layers.values()),
        "layers": layers,
        **subject.measured(dense, found),
    }


def peer(dense: nn.Module, inputs: Any, at: str, method: Method, ours: Path) -> tuple[nn.Module, dict[str, int]]:
    """A network pruned by a peer, and how many weights each layer has."""
    graph = capture_graph(dense, inputs)
    network = Network(graph, samples_of(graph, inputs))
    pattern = TWO_OF_FOUR if method.allocation == PATTERN else None
    if pattern is not None:
        counts = network.by_pattern(pattern)
    elif method.allocation == "fit's":
        counts = json.loads(ours.read_text())["layers"]
    else:
        counts = network.uniform(float(at)) if method.allocation == "uniform" else network.by_size(float(at))
    states, solver = method.targets == "fit's", PEERS[method.solver]
    found = network.pruned(solver, counts, states=states, correct=method.norms, pattern=pattern)
    return found, network.counts_of(found)


def page(report: dict[str, Any], places: Places) -> str:
    """The figures as Markdown."""
    draws = max((len({row["draw"] for row in one["rows"]}) for one in report["networks"].values()), default=0)
    lines = ["# One-shot pruning of transformers and ResNet-20", ""]
    lines += [f"{ran_on(report)}. Means over {draws} draws, fewer where it is said; standard deviations in brackets."]
    lines += [report["note"]] if report["note"] else []
    for name, one in report["networks"].items():
        lines += _section(SUBJECTS[name](places), one)
    return "\n".join([*lines, ""])


def _section(subject: Subject, found: dict[str, Any]) -> list[str]:
    rows = found["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    headings = {at: at if ":" in at else f"{at} % sparse" for at in found["at"]}
    lines = ["", f"## {subject.title}"]
    for figure, (title, digits) in subject.figures.items():
        lines += ["", f"### {title} (dense: {found['dense'][figure]:.{digits}f})", ""]
        lines += grid(columns(rows, figure, headings, digits), names)
    lines += ["", "### Seconds, all cores", "", *grid(columns(rows, "seconds", headings, 0), names)]
    return [*lines, *failures(rows)]


if __name__ == "__main__":
    main()
