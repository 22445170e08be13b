"""The model card of a finished fit, from what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplicit.errors import DataError
from simplicit.runs.folder import MANIFEST, read_manifest
from simplicit.runs.hf.figures import lines_of
from simplicit.runs.networks import NETWORK, WEIGHTS
from simplicit.training.card import Card, Form, Measured

#: Where model hubs look for a card, in the folder of a network.
CARD = "README.md"


def card_of(results: Mapping[str, Any], inputs: Mapping[str, Any], form: Form) -> str:
    """The card of a fit with these results and inputs, as its manifest has them, of a network of some form."""
    data, texts = inputs["data"], "measures" in results
    name = Path(str(data["name"])).name
    return Card(
        figures=results,
        data=f"lines of {name}, {data['length']} tokens each" if texts else f"training samples of {name}",
        measured=_measured(results),
        measured_on=f"{results['texts']:,} texts of {name} that were held out" if texts else _test(data, name),
        form=form,
    ).text()


def read_card(run: Path) -> str:
    """The card of the fit in a folder; DataError where its manifest is damaged, or older than cards."""
    manifest = read_manifest(run, "fit")
    form: Form = "weights" if (run / WEIGHTS).is_file() else "model"
    if (run / NETWORK).is_dir():
        form = "transformers"
    try:
        return card_of(manifest["results"], manifest["inputs"], form)
    except (KeyError, TypeError, ValueError) as error:
        what = f"its results have no {error}, of which a card is made; fit it again"
        raise DataError(f"{run / MANIFEST}: {what}") from error


def _test(data: Mapping[str, Any], name: str) -> str:
    return f"the {data['test_samples']:,} test samples of {name}"


def _measured(results: Mapping[str, Any]) -> list[Measured]:
    head = ("", "dense", "sparse")
    if "measures" in results:
        return [head, *lines_of(results["measures"])]
    shares = {name: f"{100 * results[name]:.2f} %" for name in ("baseline_accuracy", "accuracy", "agreement")}
    return [
        head,
        ("accuracy", shares["baseline_accuracy"], shares["accuracy"]),
        ("agreement with the dense network", "", shares["agreement"]),
    ]
