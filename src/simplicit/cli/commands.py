"""The commands by what is typed for them. A new command is one function and one line here.

A command is a function whose parameters are settings (:mod:`simplicit.cli.signature`) and whose docstring is its help.
"""

from __future__ import annotations

from collections.abc import Callable

from simplicit.cli.baseline import baseline
from simplicit.cli.bench import bench
from simplicit.cli.demo import demo
from simplicit.cli.evaluate import evaluate
from simplicit.cli.export import export
from simplicit.cli.fit import fit
from simplicit.cli.journal import merge, show
from simplicit.cli.report import report
from simplicit.cli.reproduce import figure5, frontier, table2, table3
from simplicit.cli.robustness import attack, certify
from simplicit.cli.solve import solve

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "baseline": baseline,
    "fit": fit,
    "eval": evaluate,
    "attack": attack,
    "certify": certify,
    "bench": bench,
    "export": export,
    "report": report,
    "solve": solve,
    "journal show": show,
    "journal merge": merge,
    "reproduce figure5": figure5,
    "reproduce frontier": frontier,
    "reproduce table2": table2,
    "reproduce table3": table3,
}

#: What commands of two words have in common.
FAMILIES: dict[str, str] = {
    "journal": "Look into the journals of `solve` and `fit`, and merge those of the parts of a solve.",
    "reproduce": "Redo the paper's figures and tables.",
}
