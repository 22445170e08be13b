"""Whether any network goes in: which are exact and can be fitted, of those that torch.export takes.

    make census-env                                           # once: timm, transformers, pretrained networks, their own
    python benchmarks/census.py                               # everything
    python benchmarks/census.py --only transformers           # a family
    python benchmarks/census.py --only 'small/lstm*' --no-fit # names by pattern, without the fits
    python benchmarks/census.py --parts FOLDER                # hours: what is answered stays there; again, it goes on
    python benchmarks/census.py --list

Every network is asked, each question in a process of its own with limits of time and memory:

1. Does `torch.export` take it with a free number of samples, and how long does it need?
2. Does `simplicit.from_torch`, how long and how much memory does that need, or what does it say?
3. How far are the predictions from the network's output for 1, 2 and 7 samples, in float64 and in float32, relative to
   the largest entry of the output?
4. Does `simplicit.fit` with `Sparse(50)` on 12 samples end with a finite network? Of a network of more than half a
   million weights the narrowest layers are fitted, up to so many weights and five hundred groups of channels; the page
   says how many layers of how many.

Families are in `networks/`, one file each. Where `make census-env` has not run, only the small networks are asked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from census_page import page
from networks.run import FAMILIES
from results import arguments, command, keep, machine, say, source_digest

import simplicit

HERE = Path(__file__).parent
PYTHON = HERE / "networks" / ".venv" / "bin" / "python"


def main() -> None:
    """Ask the networks of all families."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--only", action="append", default=[], help="pattern of a name, a family or FAMILY/NAME")
    parser.add_argument("--no-fit", action="store_true", help="leave the fits out")
    parser.add_argument("--limit", type=float, default=120, help="seconds per question (default: 120)")
    parser.add_argument("--memory", type=float, default=8, help="GiB per question (default: 8)")
    parser.add_argument("--list", action="store_true", help="say the names of the networks, and do nothing")
    parser.add_argument(
        "--parts", type=Path, help="folder of answers of this code, where those there are are not asked again"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = (options.parts or Path(folder)) / (source_digest() + "-no-fit" * options.no_fit)
        parts.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        skipped: dict[str, str] = {}
        for family in FAMILIES:
            answers = asked(family, options, parts / f"{family}.jsonl")
            if answers and "skipped" in answers[-1]:
                skipped[family] = answers[-1]["skipped"]
            entries += [answer for answer in answers if "name" in answer]
    if options.list:
        return
    found = versions()
    report = {
        "command": command(),
        "machine": machine() | {"python": found.pop("python"), "packages": found},
        "source": source_digest(),
        "limits": {"seconds": options.limit, "gib": options.memory},
        "skipped": skipped,
        "networks": entries,
    }
    keep(options.output, "census", report, page(report))


def asked(family: str, options: argparse.Namespace, result: Path) -> list[dict[str, Any]]:
    """What the networks of a family answered; its process imports the library from where this one has it."""
    words = [str(interpreter()), "-m", "networks.run", family, str(result)]
    words += [f"--limit={options.limit}", f"--memory={options.memory}", *(f"--only={word}" for word in options.only)]
    words += ["--no-fit"] * options.no_fit + ["--list"] * options.list
    done = subprocess.run(words, cwd=HERE, env=environment(), check=False)
    answers = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    if done.returncode:
        say(f"{family}: exit code {done.returncode}")
        answers.append({"skipped": f"its process ended with exit code {done.returncode}"})
    return answers


def interpreter() -> Path:
    """The environment of the networks, or where there is none, this one."""
    return PYTHON if PYTHON.exists() else Path(sys.executable)


def environment() -> dict[str, str]:
    """One thread, nothing from the network, and the library that is imported here."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    source = str(Path(simplicit.__file__).parents[1])
    return os.environ | dict.fromkeys(threads, "1") | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": source}


def versions() -> dict[str, str]:
    """What the networks' environment has."""
    code = (
        "import json, platform\nfrom importlib.metadata import distributions\n"
        "names = ('torch', 'timm', 'transformers', 'numpy')\n"
        "found = {d.name: d.version for d in distributions() if d.name in names}\n"
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    done = subprocess.run([str(interpreter()), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
