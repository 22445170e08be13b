"""The figures of the row solver: against its floor, against its peers, along a path, on large problems, as it grows.

    python benchmarks/row_solver.py                        # every section; hours, most of them the peers'
    python benchmarks/row_solver.py family path large      # some sections; the figures of the others are kept
    python benchmarks/row_solver.py all --repeats 1 --rows 8 --shrink 8 --limit 20 --output build/trial      # a trial

Sections:
  family   112 rows of the Fashion-MNIST network, 100 to 2,000 samples, three strengths: time, floor, gap, phases
  peers    the same rows by torchidl (with the ball), celer, skglm and scikit-learn (without it); needs `make peers`
  path     20 strengths by solve_path against the hardest of them solved alone
  large    1,000 x 4,000 x 2,000 and 200 x 20,000 x 1,000 (rows x columns x samples): time and peak memory
  growth   time against rows, columns and samples, with a picture
  cliffs   a cold solve against our own path that ends there: strengths, shapes, noise, correlation, duplicates

Ours and the floor are medians of --repeats runs in this process, one after another; each peer runs once. Every gap and
objective is measured by this benchmark from the coefficients. Writes results/row_solver.json, row_solver.md and
growth.png beside this file.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import cache
from typing import Any

import cliffs
import sections
import synthetic_sections
from peer_runs import CONSTRAINED, UNCONSTRAINED
from problems import SAMPLES, FashionFamily
from results import SECTIONS, arguments, merge, page

FROM_FAMILY = {"family": sections.family, "peers": sections.peers, "path": sections.path}
SYNTHETIC = {"large": synthetic_sections.large, "growth": synthetic_sections.growth, "cliffs": cliffs.cliffs}
PEERS = (*CONSTRAINED, *UNCONSTRAINED)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a running peer is ended with this process
    chosen = list(SECTIONS) if "all" in options.sections else [name for name in SECTIONS if name in options.sections]
    settings = sections.Options(
        repeats=options.repeats,
        rows=options.rows,
        samples=tuple(options.samples),
        peer_samples=tuple(options.peer_samples),
        peers=tuple(options.peers),
        limit=options.limit,
        results=options.output,
        shrink=options.shrink,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    family, report = cache(FashionFamily), {}
    result: Any
    for name in chosen:
        if name in FROM_FAMILY:
            result = FROM_FAMILY[name](family(options.data_dir), settings)
        else:
            result = SYNTHETIC[name](settings)
        report = merge(options.output / "row_solver.json", name, options.repeats, result)
    print(page(report))


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "sections", nargs="*", default="all", choices=[*SECTIONS, "all"], help="what to run (default: all)"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs per median (default: 5)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds per peer and problem (default: 900)")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="which peers (default: all)")
    parser.add_argument(
        "--samples", nargs="+", type=positive, default=list(SAMPLES), help="of the family (default: 100 ... 2000)"
    )
    parser.add_argument(
        "--peer-samples", nargs="+", type=positive, default=[500], help="of the section peers (default: 500)"
    )
    parser.add_argument("--rows", type=positive, help="only the first ROWS of the family, for a trial (default: all)")
    parser.add_argument(
        "--shrink", type=positive, default=1, help="divide the synthetic sizes, for a trial (default: 1)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
