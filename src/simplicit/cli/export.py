"""``simplicit export``: a finished fit for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simplicit.cli.console import print_json, say
from simplicit.cli.options import DataDir, Json, TrustPt2
from simplicit.runs.exporting import check_target, export_run

__all__ = ["export_command"]


def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `simplicit fit` wrote.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            help="File to write: .onnx for the implicit model, .safetensors for the weights of the network.",
            rich_help_panel="Output",
        ),
    ] = Path("model.onnx"),
    data_dir: DataDir = None,
    trust_pt2: TrustPt2 = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.", rich_help_panel="Output")
    ] = False,
    json: Json = False,
) -> None:
    """Write a fitted model for other programs: as ONNX, or as weights of the network that was fitted.

    A file that ends in .onnx holds the implicit model, for models without cycles; it takes any number of samples, and
    is compared with the model by onnxruntime before it appears (extra onnx). One that ends in .safetensors holds the
    state_dict of the network that the fit started from, with its new weights: load it into the same class.

    Example: `simplicit export runs/fit --output model.onnx`
    """
    check_target(output, overwrite=overwrite)
    facts = export_run(run, output, overwrite=overwrite, data_dir=data_dir, trust_pt2=trust_pt2)
    if json:
        print_json(facts)
        return
    told = (
        f"outputs differ by {facts['difference']:.1e}, checked by {facts['checked_by']}"
        if "difference" in facts
        else f"{facts['non_zeros']:,} of {facts['entries']:,} weights are not zero"
    )
    say(f"Saved in {output}: {facts['bytes']:,} bytes, {told}.")
