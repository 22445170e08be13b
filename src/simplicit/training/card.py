"""Model cards: what somebody who meets a sparse network wants to know of it, as the README.md of a folder has it.

A card says what the network is, how many of its weights are left, how it was made and on what, how far it agrees with
the dense network, what each layer kept and lost, and where its limits are. It is Markdown with the head of metadata
that model hubs read. Every figure comes from the fit or was measured by whoever asks for the card; what nobody
measured, the card says, is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simplicit.errors import InputError
from simplicit.implicit.batch import chunks
from simplicit.network.graph import NetworkGraph
from simplicit.network.prepare import evaluation_copy, in_single_precision

#: How a network is loaded; see :class:`Card`.
Form = Literal["transformers", "weights", "model"]
#: A figure by its name, of the dense network and of the sparse one; "" where there is none.
Measured = tuple[str, str, str]
#: Samples that are run at a time.
_BATCH = 64
#: So many of the weights that were left alone are named.
_LISTED = 4
_MASK = "attention_mask"


@dataclass(frozen=True)
class Card:
    """A card of a fit.

    Attributes
    ----------
    figures : mapping
        Those of :meth:`simplicit.FitResult.figures`.
    title : str
        "" for the class of the network and how sparse it is.
    data : str
        What it was fitted on, in words; "" for nothing but the number of samples.
    measured : sequence of (str, str, str)
        How it compares with the dense network: what, of the dense one, of the sparse one; the heads of the columns come
        before.
    measured_on : str
        On what, in words.
    form : str
        How it is loaded: ``"transformers"``, ``"weights"`` of a class of one's own, or, where the network has no
        parameters for it, the implicit ``"model"``.
    """

    figures: Mapping[str, Any]
    title: str = ""
    data: str = ""
    measured: Sequence[Measured] = ()
    measured_on: str = ""
    form: Form = "weights"

    def text(self) -> str:
        """The card in Markdown, its metadata first."""
        sections = (
            (f"# {self._title}", self._introduction()),
            ("## Recipe", self._recipe()),
            ("## Data", [self._data()]),
            ("## Agreement with the dense network", self._agreement()),
            ("## Layers", self._layers()),
            ("## Use", self._use()),
            ("## Limits", self._limits()),
        )
        body = "\n\n".join("\n\n".join([head, *parts]) for head, parts in sections)
        library = "transformers" if self.form == "transformers" else "pytorch"
        return f"---\nlibrary_name: {library}\ntags:\n- sparse\n- pruned\n- simplicit\n---\n\n{body}\n"

    @property
    def _title(self) -> str:
        return self.title or f"{self.figures['network']}, {self.figures['sparsity']:.1f} % sparse"

    def _introduction(self) -> list[str]:
        figures = self.figures
        left: Mapping[str, str] = figures.get("left_alone") or {}
        names = ", ".join(f"`{name}`" for name in [*left][:_LISTED]) + (
            f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        )
        counted = "Counted are the weights of the layers below; embeddings, norms and biases are not."
        return [
            f"A {figures['network']} of which {figures['sparsity']:.1f} % of the weights are zero: "
            f"{figures['non_zeros']:,} of {figures['baseline_weights']:,} are left. It was made from a trained dense "
            "network, which it imitates, by simplicit.",
            counted + (f" Left as they were: {names}." if left else ""),
        ]

    def _recipe(self) -> list[str]:
        figures = self.figures
        lines = [
            f"- {figures['recipe']}",
            f"- {figures['rows_certified']:,} of {figures['rows']:,} rows are proved optimal for their zeros, by a "
            f"relative duality gap of {figures['largest_relative_gap']:.1e} at most",
        ]
        if figures.get("ridge") is not None:
            towards = f"towards {figures['anchor']:.4g} of the dense network's weights"
            lines.append(f"- values by least squares with ridge {figures['ridge']:.4g} {towards}")
        lines.append("- no label was used")
        return ["\n".join(lines)]

    def _data(self) -> str:
        count = f"{self.figures['samples']:,} samples, without labels"
        return f"Fitted on {count}: {self.data}." if self.data else f"Fitted on {count}."

    def _agreement(self) -> list[str]:
        if not self.measured:
            return ["Not measured: compare the two networks on samples of your own before you use this one."]
        return [f"Measured on {self.measured_on}." if self.measured_on else "", _table(self.measured)]

    def _layers(self) -> list[str]:
        rows = [("layer", "weights", "kept", "results off by", "pattern")]
        for layer in self.figures["layers"]:
            name = "+".join(layer.get("modules") or [layer["name"]])
            kept = f"{100 * layer['non_zeros'] / layer['weights']:.1f} %" if layer["weights"] else ""
            off = f"{100 * math.sqrt(max(layer['error'], 0.0)):.1f} %"
            rows.append((f"`{name}`", f"{layer['weights']:,}", kept, off, layer.get("pattern") or ""))
        if not any(row[4] for row in rows[1:]):
            rows = [row[:4] for row in rows]  # type: ignore[misc]
        about = "Results are off, on the samples that it was fitted on, by so much of the norm of the dense network's."
        return [about, _table(rows)]

    def _use(self) -> list[str]:
        name = self.figures["network"]
        if self.form == "model":
            return ['```python\nimport simplicit as sp\n\nmodel = sp.load("FOLDER")\n```']
        if self.form == "transformers":
            return [
                f'```python\nfrom transformers import {name}\n\nnet = {name}.from_pretrained("FOLDER")\n```',
                "Zeros are stored as zeros here, so that any version of transformers reads it. "
                "`simplicit.save` writes them small, and `simplicit.accelerate` makes them fast.",
            ]
        load = 'sp.load_weights(net, "FILE OR FOLDER")'
        return [
            f"```python\nimport simplicit as sp\n\nnet = …  # a {name}, made as the dense one was\n{load}\n```",
            "`simplicit.accelerate` makes the zeros fast.",
        ]

    def _limits(self) -> list[str]:
        lines = [
            "It was made to agree with the dense network on data like that above, and has its faults and biases; on "
            "other data it may differ more than measured here.",
            "Agreement in the mean hides single samples: rare classes and long inputs often lose first.",
            "A zero saves memory and time only in a format that leaves it out.",
            "Nothing is claimed of attacked inputs.",
            *(f"{remark}." for remark in self.figures.get("remarks", ())),
        ]
        trained = [one for one in self.figures["layers"] if one["weights"]]
        worst = max(trained, key=lambda one: float(one["error"]), default=None)
        if worst is not None and worst["error"] > 0.25:
            name = "+".join(worst.get("modules") or [worst["name"]])
            share = f"{100 * math.sqrt(worst['error']):.0f} %"
            lines.insert(0, f"`{name}` lost most: its results are off by {share} of their norm.")
        if self.figures["rows_certified"] < self.figures["rows"]:
            missed = self.figures["rows"] - self.figures["rows_certified"]
            lines.insert(0, f"{missed:,} rows did not reach the tolerance that was asked for.")
        return ["\n".join(f"- {line}" for line in lines)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, its first row the head."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def compared(graph: NetworkGraph, sparse: nn.Module, inputs: Any) -> tuple[list[Measured], int]:
    """How a network compares with the one that a graph is of, on inputs of its form, and on how many samples.

    The *agreement* is the share of samples, or of positions that no ``attention_mask`` leaves out, at which both have
    the same largest of their outputs; outputs are off by ‖ŷ − y‖/‖y‖. InputError is raised where inputs do not fit.
    """
    U = graph.batch(inputs)
    if not len(U):
        raise InputError("inputs must hold at least one sample, got none", argument="inputs")
    both = [evaluation_copy(net) for net in (graph.network, sparse)]
    for net in both:
        in_single_precision(net)
    same = places = 0
    error = energy = 0.0
    for dense, ours, kept in _outputs(graph, both, U):
        error += float((ours - dense).double().square().sum())
        energy += float(dense.double().square().sum())
        if dense.ndim > 1 and dense.shape[-1] > 1:
            equal = (dense.argmax(-1) == ours.argmax(-1))[kept]
            same, places = same + int(equal.sum()), places + equal.numel()
    rows: list[Measured] = [("", "dense", "sparse")]
    if places:
        rows.append(("agreement: the same largest output", "", f"{100 * same / places:.2f} %"))
    rows.append(("outputs off by, of their norm", "", f"{100 * math.sqrt(error / energy):.2f} %" if energy else "0 %"))
    return rows, len(U)


def _outputs(graph: NetworkGraph, nets: Sequence[nn.Module], U: Tensor) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """The outputs of two networks, and which of their positions count, some samples at a time."""
    names = [spec.name for spec in graph.layout.specs]
    for rows in chunks(len(U), 1, _BATCH):
        part = U[rows]
        in_order, by_name = graph.call.arguments(part)
        with torch.no_grad():
            dense, ours = (graph.choice.of(net(*in_order, **by_name)) for net in nets)
        kept: Any = ...
        if _MASK in names and dense.ndim == 3:
            mask = graph.layout.unpack(part)[names.index(_MASK)]
            if mask.shape == dense.shape[:2]:
                kept = mask != 0
        yield dense, ours, kept
