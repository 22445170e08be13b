"""What :func:`simplicit.fit` returns, and one screen of text about it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from simplicit.implicit import ImplicitModel, perron_frobenius, save
from simplicit.network.cells import CellCapture
from simplicit.network.graph import NetworkGraph
from simplicit.training.card import Card, Form, compared
from simplicit.training.channels import ChannelStudent
from simplicit.training.figures import LayerFigures, RowFigures
from simplicit.training.problem import Ridge
from simplicit.training.provider import Student
from simplicit.training.recipes.base import Recipe, Task
from simplicit.training.support.pattern import PatternFigures
from simplicit.training.training import Trained

#: Columns of a line of options.
_WIDTH = 100
#: So many of the weights that were left alone for one reason are named.
_LISTED = 4
#: A relative squared error of rounding.
_NOTHING = 1e-12


@dataclass(frozen=True, eq=False)
class FitResult:
    """A retrained network, with its certificates and the account of how it was made.

    Attributes
    ----------
    recipe : Recipe
    rows : RowFigures
    strength : float
        What the penalty was multiplied by to reach the wanted sparsity; 1 if none was searched for.
    trials : int
        How many times the rows were solved for that.
    exchanged : int
        How many weights exchanges placed elsewhere than elimination, or thresholding, alone.
    ridge : Ridge or None
        The ridge and anchor of the values, where they come from least squares.
    n_samples : int
    weight_count : int
        N₀, the number of the baseline's weights.
    tol : float
        The relative duality gap that was asked for.
    seconds : mapping of str to float
        Time of each stage.
    student : Student
        The network that was made.
    graph : NetworkGraph
        The network that came in.
    notes : mapping of str to str
        What else the summary says, by its label: the output that was taken, the dtype of the weights.
    behind : mapping of str to tuple of str
        Where rows are those of states: the modules whose weights make each group of them.
    """

    recipe: Recipe
    rows: RowFigures
    strength: float
    trials: int
    exchanged: int
    ridge: Ridge | None
    n_samples: int
    weight_count: int
    tol: float
    seconds: Mapping[str, float]
    student: Student
    graph: NetworkGraph
    notes: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, task: Task, found: Trained) -> FitResult:
        """The result of a recipe that made of a task what it found."""
        tied = isinstance(found.student, ChannelStudent)  # then layers are modules already
        return cls(
            recipe=recipe,
            rows=RowFigures.of([solution for groups in found.solutions.values() for solution in groups], found.student),
            strength=found.strength,
            trials=found.trials,
            exchanged=found.exchanged,
            ridge=found.ridge,
            n_samples=len(task.inputs),
            weight_count=found.weight_count,
            tol=task.rows.tol,
            seconds=task.seconds,
            student=found.student,
            graph=task.graph,
            behind={} if tied or task.cell is not None else task.captured.layers_behind,
            notes=(_notes(task.graph) if task.cell is None else _notes_of_cell(task.cell)) | task.notes,
        )

    def network(self) -> nn.Module:
        """A new copy of the network that was fitted, of its own class and in evaluation mode, with the new weights.

        Its ``state_dict`` has the keys, shapes and dtypes of the network's, but for masks and parametrisations, whose
        weights are plain now; its outputs are those of ``model``, to rounding. Biases, and the running
        statistics of batch norms behind tied rows, are corrected to the new weights. What was left free stays: scales
        of batch norms, and everything that does not reach the output.

        Raises
        ------
        InputError
            The fit has another structure than ``baseline``; or it is one of M as a whole (Robust, Certified, and
            Matching with ``kappa`` or BasisPursuit), and the network has no parameter of its own for a part of M: one
            that several layers without an activation between compose, a skip connection, or a constant without a bias.
        """
        return self.student.network()

    @property
    def model(self) -> ImplicitModel:
        """The retrained network as an implicit model, made when it is first asked for.

        Of untied rows it is in float64 and, where the activations allow it, in the units of Theorem 2.4, the baseline's
        or, after robust training, its own; of tied rows it is the exact implicit form of :meth:`network`.
        """
        return self.student.model

    def __repr__(self) -> str:
        rows, kept = len(self.rows), f"{self.nnz} of {self.weight_count} weights, {self.sparsity:.2f} % sparse"
        certified = f"{int(self.rows.converged.sum())} of {rows} rows certified"
        return f"FitResult({type(self.recipe).__name__} on {self.n_samples} samples, {kept}, {certified})"

    def save(self, folder: str | Path) -> None:
        """Write ``model`` to a folder, as :func:`simplicit.save` does."""
        save(self.model, folder)

    @property
    def nnz(self) -> int:
        """Weights that are not zero; those of a kernel count once."""
        return int(self.rows.nnz.sum())

    @property
    def sparsity(self) -> float:
        """100·(1 − nnz/N₀), in per cent of the baseline's weights."""
        return 100.0 * (1.0 - self.nnz / self.weight_count)

    @cached_property
    def layers(self) -> tuple[LayerFigures, ...]:
        """What came of each layer, in the order of evaluation."""
        selected = bool(np.isfinite(self.rows.cardinality_gap).all()) and self.ridge is not None
        found = []
        for name, error in self.student.errors.items():
            own = self.rows.group == name
            objective, gap = self.rows.objective[own].sum(), self.rows.cardinality_gap[own].sum()
            bound = (float(1 - gap / objective) if objective > 0 else 1.0) if selected else None
            weights, nnz = self.student.weights[name], int(self.rows.nnz[own].sum())
            pattern = self.student.patterns.get(name)
            text = None if pattern is None else str(pattern)
            modules = self.behind.get(name, ())
            found.append(LayerFigures(name, int(own.sum()), weights, nnz, error, bound, text, modules))
        return tuple(found)

    def in_pattern(self) -> tuple[PatternFigures, ...]:
        """The groups of every layer that has a pattern, counted on the weights of :meth:`network`.

        The proof of a pattern: no layer has a violation. The rows of a cell may be of several kinds, with one entry
        each. InputError is raised as :meth:`network` does.
        """
        return tuple(self.student.in_pattern())

    def card(self, inputs: Any = None, *, title: str = "", data: str = "") -> str:
        """The model card of :meth:`network`: the README.md of a folder that others take it from.

        It says how sparse the network is, by which recipe and on how many samples it was made, what each layer kept and
        lost, how it is loaded, and what its limits are, in Markdown with the metadata that model hubs read.

        Parameters
        ----------
        inputs : optional
            Samples that it was not fitted on, in any form that :func:`simplicit.fit` takes but batches: on these it is
            compared with the dense network. Without them the card says that this was not measured.
        title : str
            Its heading; default: the class and the sparsity.
        data : str
            What it was fitted on, in words, such as "sentences of Wikipedia".

        Raises
        ------
        InputError
            Inputs do not fit, or the fit has no :meth:`network`.
        """
        measured, measured_on, sparse = list[tuple[str, str, str]](), "", self.network()
        if inputs is not None:
            measured, count = compared(self.graph, sparse, inputs)
            measured_on = f"{count:,} samples"
        form: Form = "transformers" if hasattr(sparse, "save_pretrained") else "weights"
        return Card(self.figures(), title, data, measured, measured_on, form).text()

    def figures(self) -> dict[str, Any]:
        """The summary as plain numbers, ready for JSON; sparsity in per cent."""
        return {
            "network": type(self.graph.network).__name__,
            "recipe": f"{type(self.recipe).__name__}: {_chosen(self.recipe)}",
            "samples": self.n_samples,
            "rows": len(self.rows),
            "rows_certified": int(self.rows.converged.sum()),
            "largest_relative_gap": float(self.rows.relative_gap.max(initial=0.0)),
            "non_zeros": self.nnz,
            "baseline_weights": self.weight_count,
            "sparsity": self.sparsity,
            "layers": [asdict(layer) for layer in self.layers],
            "strength": self.strength,
            "trials": self.trials,
            "exchanged": self.exchanged,
            "ridge": None if self.ridge is None else self.ridge.ridge,
            "anchor": None if self.ridge is None else self.ridge.anchor,
            **self.student.facts,
            "seconds": dict(self.seconds),
        }

    def summary(self) -> str:
        """One screen of text: what was done, what is certified, where the non-zeros went."""
        figures, recipe = self.figures(), self.recipe
        lines = [
            f"State-driven training on {self.n_samples:,} samples, recipe {type(recipe).__name__}",
            *_labelled("options", _chosen(recipe)),
            *(line for label, text in self.notes.items() for line in _labelled(label, text)),
            *_method(self),
            *_labelled(
                "rows",
                f"{figures['rows_certified']} of {len(self.rows)} certified, largest relative gap "
                f"{figures['largest_relative_gap']:.1e} (tol {self.tol:g})",
            ),
            *_labelled("weights", f"{self.nnz:,} non-zeros, the baseline has {self.weight_count:,}: {_compared(self)}"),
            *_labelled("most lost", _most_lost(self)),
            *_unproved(self),
            *_left_alone(figures),
            *_stability(figures),
            *_labelled("time", ", ".join(f"{stage} {spent:.2f} s" for stage, spent in self.seconds.items())),
            *_table(self),
        ]
        return "\n".join(lines)


def _chosen(recipe: Recipe) -> str:
    """The options of a recipe in a line."""
    return ", ".join(f"{one.name} {_shown(getattr(recipe, one.name))}" for one in _options(recipe))


def _options(recipe: Recipe) -> list[Field[Any]]:
    """The options that are worth a word: all but those that nobody has set and that stand for nothing."""
    return [one for one in fields(recipe) if getattr(recipe, one.name) not in ((), None)]


def _notes(graph: NetworkGraph) -> dict[str, str]:
    """Which output was taken, where there was a choice, and which dtype weights came in, where it was another."""
    notes: dict[str, str] = {}
    if len(graph.choice.names) > 1:
        notes["output"] = f"{graph.output_name!r} of {', '.join(map(repr, graph.choice.names))}"
    if graph.halves:
        dtypes = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in graph.halves.values()}))
        notes["dtype"] = f"{dtypes} weights, fitted in float32 and given back in {dtypes} by network()"
    return notes


def _notes_of_cell(cell: CellCapture) -> dict[str, str]:
    """What was known of the cell before."""
    bounds = perron_frobenius(cell.model)
    proved = "well-posed" if bounds.upper < 1 else "not proved well-posed"
    return {"cell": f"at rest, on its own equilibria; as it came lambda_pf {bounds.value:.4g}, {proved}"}


def _labelled(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _method(result: FitResult) -> list[str]:
    """What was done, one line for each part of it."""
    lines, patterned = [], bool(result.student.patterns)
    if result.trials > 1:
        lines += _labelled("strength", f"x {result.strength:.4g}, found in {result.trials} trials")
    if any(layer.support_bound is not None for layer in result.layers):
        lines += _labelled(
            "support",
            f"eliminated {'to their patterns, others ' if patterned else ''}at one price for a weight in the whole "
            f"network, {result.exchanged:,} of {result.nnz:,} weights exchanged",
        )
        own = " in its pattern" if patterned else ""
        lines += _labelled(
            "", f"best >= x: no other{own} with as many weights per row has less than x of its squared error"
        )
    if result.ridge is not None:
        ridge = result.ridge
        lines += _labelled("values", f"ridge {ridge.ridge:.4g} towards {ridge.anchor:.4g} of the baseline's weights")
    return lines


def _compared(result: FitResult) -> str:
    more = result.nnz - result.weight_count
    return f"{result.sparsity:.1f} % sparse" if more <= 0 else f"{100 * more / result.weight_count:.1f} % more"


def _most_lost(result: FitResult) -> str:
    """Which layer's results are furthest from the baseline's, and which layers have no weight left; nothing if none."""
    layers = [layer for layer in result.layers if layer.weights]
    worst = max(layers, key=lambda layer: layer.error, default=None)
    said = []
    if worst is not None and worst.error > _NOTHING:
        kept = f", with {_share(worst)} of its weights" if worst.non_zeros <= worst.weights else ""
        said.append(f"in {worst.shown}, whose results are off by {_off(worst)} of their norm{kept}")
    if empty := [layer.shown for layer in layers if not layer.non_zeros]:
        more = f" and {len(empty) - _LISTED} more" if len(empty) > _LISTED else ""
        said.append(f"no weight is left in {', '.join(empty[:_LISTED])}{more}")
    return "; ".join(said)


def _share(layer: LayerFigures) -> str:
    """The share of its weights that a layer keeps."""
    return f"{100 * layer.non_zeros / layer.weights:.1f} %"


def _off(layer: LayerFigures) -> str:
    """How far a layer's results are from the baseline's, as a share of their norm."""
    return f"{100 * math.sqrt(layer.error):.2g} %"


def _unproved(result: FitResult) -> list[str]:
    """The rows that are kept without having converged, by layer."""
    rows = result.rows
    counts = {str(name): int(((rows.group == name) & ~rows.converged).sum()) for name in dict.fromkeys(rows.group)}
    named = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    return _labelled("", f"not certified: {named}") if named else []


def _left_alone(figures: dict[str, Any]) -> list[str]:
    """The weights that were not trained, by the reason; of many the first ones."""
    left: dict[str, str] = figures.get("left_alone") or {}
    parts = []
    for reason in dict.fromkeys(left.values()):
        names = [name for name, why in left.items() if why == reason]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        parts.append(f"{', '.join(names[:_LISTED])}{more} ({reason})")
    return _labelled("left alone", "; ".join(parts)) if parts else []


def _stability(figures: dict[str, Any]) -> list[str]:
    """Why the model is well-posed, where its A is at hand."""
    if "perron_frobenius" not in figures:
        return []
    bound = figures["perron_frobenius"]["upper"]
    proved = " < 1: well-posed" if bound < 1 else ""
    return _labelled("stability", f"|A|_inf {figures['row_norm']:.4f}, lambda_pf <= {bound:.4g}{proved}")


def _table(result: FitResult) -> list[str]:
    """One line for each layer, as the network computes them."""
    bounded = any(layer.support_bound is not None for layer in result.layers)
    width = max([22, *(len(layer.shown) for layer in result.layers)]) + 2
    head = f"  {'layer':<{width}}{'rows':>6}{'weights':>10}{'non-zeros':>12}{'kept':>9}{'rel. error':>12}"
    return [head + (f"{'best >=':>10}" if bounded else ""), *(_line(layer, width) for layer in result.layers)]


def _line(layer: LayerFigures, width: int) -> str:
    share = _share(layer).replace(" ", "") if layer.non_zeros <= layer.weights > 0 else "-"
    # A bound is rounded down.
    bound = "" if layer.support_bound is None else f"{math.floor(1000 * layer.support_bound) / 1000:>10.3f}"
    counts = f"{layer.rows:>6}{layer.weights:>10,}{layer.non_zeros:>12,}"
    return f"  {layer.shown:<{width}}{counts}{share:>9}{_off(layer).replace(' ', ''):>12}{bound}"
