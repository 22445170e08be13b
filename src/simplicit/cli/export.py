"""``simplicit export``: a finished fit for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from simplicit.cli.console import print_json, say, show_progress
from simplicit.runs.exporting import check_target, export_run


def export(
    run: Path,
    /,
    *,
    output: Path = Path("model.onnx"),
    dtype: Literal["float32", "float64"] | None = None,
    values: Literal["exact", "float16"] = "exact",
    compact: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a fitted model for other programs: as ONNX, as weights of the network that was fitted, or its model card.

    A file that ends in .onnx holds the implicit model, for models without cycles; it takes any number of samples, and
    is compared with the model by onnxruntime before it appears (extra onnx). One that ends in .safetensors holds the
    state_dict of the network that the fit started from, with its new weights: load it into the same class. A name
    without a suffix is a folder with the same weights, of which only those that are not zero take room;
    simplicit.load_weights puts them into the class, and --weights takes it. The folder network of a fit with --hf is
    one for transformers as it stands, with its model card in README.md. One that ends in .md is the model card: how
    sparse the network is, recipe, data, agreement with the dense one, a table of the layers, and limits.

    Example: `simplicit export runs/fit --output model.onnx`, or `simplicit export runs/fit --output weights`

    Parameters
    ----------
    run : Path
        Folder that `simplicit fit` wrote.
    output : Path
        File to write: .onnx for the implicit model, .safetensors for the weights of the network, .md for its model
        card; or a folder for the weights as small as they can be.
    dtype : str, optional
        Of the numbers in an .onnx file, its inputs and its outputs. Default: that of the network's weights.
    values : str
        Of weights in a folder: exact, or float16, which rounds them: half the bytes, and not the same network any more.
    compact : bool
        Leave out of an .onnx file what its outputs do not depend on, such as the units that a structured fit dropped.
    overwrite : bool
        Replace what is there.
    json : bool
        Print one JSON document on standard output, and nothing else.
    """
    check_target(output, overwrite=overwrite)
    with show_progress():
        facts = export_run(run, output, dtype=dtype, values=values, smaller=compact, overwrite=overwrite)
    if json:
        print_json(facts)
        return
    if "dtype" not in facts and "entries" not in facts:
        say(f"Saved in {output}: {facts['bytes']:,} bytes, the model card.")
        return
    what = (
        f"{facts['dtype']}, outputs differ by {facts['difference']:.1e}, checked by {facts['checked_by']}"
        if "difference" in facts
        else f"{facts['non_zeros']:,} of {facts['entries']:,} weights are not zero"
    )
    beside = ""
    if "zipped_bytes" in facts:
        share = facts["bytes"] / facts["dense_bytes"]
        beside = f" ({share:.1%} of {facts['dense_bytes']:,} dense; these zipped take {facts['zipped_bytes']:,})"
    if facts.get("change"):
        what += f", and none is more than {facts['change']:.1e} from its own value"
    if "states" in facts:
        what += f", {facts['states'][1]:,} of {facts['states'][0]:,} states left"
    say(f"Saved in {output}: {facts['bytes']:,} bytes{beside}, {what}.")
