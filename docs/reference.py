"""Write the reference from what the public rooms name in ``__all__``: docs/reference.md.

    python docs/reference.py

A name is shown once, at its shortest path: ``simplicit`` first, then the room. A room without ``__all__`` shows the
classes and functions that are defined in it and do not begin with an underscore. tests/test_docs.py compares the page
that is kept with the one that this makes, and the names with those of the rooms.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import simplicit

PAGE = Path(__file__).parent / "reference.md"
#: The public rooms, by the headings that they stand under, with the page that explains them.
ROOMS: dict[str, tuple[tuple[str, ...], str]] = {
    "From PyTorch": (("network",), "[Which networks go in](networks.md), and [what they become](how-it-works.md)."),
    "Training": (("training",), "[Choosing a recipe](training.md) explains the recipes."),
    "Rows": (("solve", "rows", "rows.penalties.piecewise"), "[Row problems](rows.md) explains all of it."),
    "Estimators of scikit-learn": (("sklearn",), "[Rows for lasso users](lasso.md) compares."),
    "The implicit model": (("implicit",), "[How it works](how-it-works.md) says what it is made of."),
    "At work": (
        (
            *("runtime.accelerate", "runtime.accelerated", "runtime.formats.choosing"),
            *("runtime.compaction", "runtime.files", "runtime.onnx"),
        ),
        "[Back to PyTorch, and to ONNX](out.md) shows them; [Speed and size](speed.md) has figures.",
    ),
    "Attacks and certificates": (("robustness",), "[Attacks and certificates](robustness.md) explains them."),
    "Executors and journals": (("executors", "progress"), "[Executors and scale](scale.md) says when to take which."),
    "Data": (("data",), "[Which networks go in](networks.md#data-sets) has the layouts."),
    "Errors": (("errors",), "Every error raised on purpose is one of these; [Errors](errors.md) has the remedies."),
}
#: What is in a registry has its name in Python and on the command line alike.
REGISTRIES = {
    "simplicit.rows.PENALTIES": "penalties",
    "simplicit.training.RECIPES": "recipes",
    "simplicit.training.states.STRUCTURES": "structures of M",
    "simplicit.training.units.NORMALIZATIONS": "units of a penalty",
    "simplicit.executors.EXECUTORS": "executors",
    "simplicit.network.registry.REGISTRY": "operations of torch",
    "simplicit.implicit.groups.elementwise.ACTIVATIONS": "activations",
    "simplicit.robustness.ATTACKS": "attacks",
    "simplicit.robustness.METHODS": "bounds of certificates",
    "simplicit.studies.peers.PEERS": "pruning methods of the frontier",
    "simplicit.data.DATASETS": "data sets",
    "simplicit.runs.bench.WAYS": "ways to run a network that `bench` measures",
    "simplicit.cli.commands.COMMANDS": "commands",
}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [
        "# Reference",
        "All public names, by the room that they are in; `python docs/reference.py` writes this page. Those of "
        "`simplicit` itself come first: `import simplicit as sp`.",
    ]
    for title, (rooms, note) in ROOMS.items():
        parts += [f"## {title}", note, "```{eval-rst}", *(_directive(name) for name in names(rooms)), "```"]
    table = "\n".join(f"| `{name}` | {what} |" for name, what in REGISTRIES.items())
    parts += [
        "## Registries",
        "What is in one of these has its name in Python and on the command line alike, also when your own code puts "
        "it there. [Contributing](contributing.md) has examples.",
        f"| registry | of |\n| --- | --- |\n{table}",
    ]
    return "\n\n".join(parts) + "\n"


def names(rooms: tuple[str, ...]) -> list[str]:
    """The shortest paths of what some rooms show, those in ``simplicit`` itself first."""
    found: dict[int, str] = {}
    for room in rooms:
        for path, value in public(importlib.import_module(f"simplicit.{room}")):
            name = path.rpartition(".")[2]
            short = name in simplicit.__all__ and getattr(simplicit, name) is value
            found.setdefault(id(value), f"simplicit.{name}" if short else path)
    return sorted(found.values(), key=lambda path: path.count(".") > 1)


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The classes and functions that a room shows, by their paths; registries and constants are left out."""
    chosen = getattr(module, "__all__", None)
    for name in vars(module) if chosen is None else chosen:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or name.startswith("_"):
            continue
        if chosen is not None or value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value


def _directive(path: str) -> str:
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if inspect.isfunction(value):
        return f".. autofunction:: {path}"
    kind = "exception" if issubclass(value, BaseException) else "class"
    # What scikit-learn adds to its estimators links into its own pages.
    left_out = "\n   :exclude-members: set_fit_request, set_score_request" if ".sklearn." in path else ""
    return f".. auto{kind}:: {path}\n   :members:{left_out}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
