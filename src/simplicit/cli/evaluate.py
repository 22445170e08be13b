"""``simplicit eval``: what a fitted model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, say, show_progress
from simplicit.cli.options import AttackSamples, DataDir, Eps, Json, Overwrite, PgdSteps, TrustPt2
from simplicit.files import file_hash, write_json
from simplicit.implicit import load
from simplicit.runs.evaluate import DEFAULT_EPS, Evaluation, evaluate, parse_eps
from simplicit.runs.fitting import capture_task
from simplicit.runs.folder import MANIFEST, Manifest, check_output, run_folder
from simplicit.runs.settings import FitSettings, read_config, read_fit, tied_weights
from simplicit.runs.task import check_range, check_unchanged, open_task

__all__ = ["eval_command"]

_EPS = list(DEFAULT_EPS)


def eval_command(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `simplicit fit` wrote.", show_default=False)],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the baseline. Default: the one that the fit started from.",
            rich_help_panel="Data",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, fashion-mnist, cifar-10, cifar-100, or a folder or .npz file. Default: that of the fit.",
            rich_help_panel="Data",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    trust_pt2: TrustPt2 = False,
    eps: Eps = _EPS,
    pgd_steps: PgdSteps = 20,
    attack_samples: AttackSamples = None,
    seed: Annotated[int, typer.Option(help="Of PGD's random start.", rich_help_panel="Attacks")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write evaluation.json and run.json into this folder too.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Measure a fitted model on the test samples, beside the baseline that it came from.

    Prints accuracy, agreement, sparsity against the baseline's weights and against the size of M, λ_pf with its bounds,
    ‖A‖∞, storage, how the equilibrium is found, and accuracy under FGSM and PGD for every --eps. Each model is attacked
    on its own gradient. Tables are in per cent, --json and files have shares; ε is in units of the inputs.

    Example: `simplicit eval runs/fit --eps 0.004 --eps 8/255 --json`
    """
    for text in eps:
        parse_eps(text)
    if output is not None:
        check_output(output, overwrite=overwrite, kind="eval", inputs=[run])
    settings = read_fit(run, baseline=baseline, data=data, data_dir=data_dir)
    model = load(run)
    task = open_task(settings, trust_pt2=trust_pt2)
    recorded = read_config(run)[1]
    if baseline is None and data is None:
        check_unchanged(recorded, task.inputs, run / MANIFEST)
    check_range(recorded, task.data, run)
    captured = capture_task(task)
    weights, total = tied_weights(run) or (None, captured.weight_count)
    with show_progress() as steps:
        figures = evaluate(
            model,
            captured.model,
            total,
            task.data,
            eps=eps,
            pgd_steps=pgd_steps,
            attacked_samples=attack_samples,
            weights=weights,
            seed=seed,
            progress=steps,
        )
    if output is not None:
        _write(figures, settings, run, task.inputs, output, command_line(context), overwrite)
    if json:
        print_json({"folder": run, "evaluation": figures})
    else:
        say(figures_table(f"{run} on {figures.samples:,} test samples of {task.data.name}"), *_tables(figures))


def _write(
    figures: Evaluation,
    settings: FitSettings,
    run: Path,
    inputs: dict[str, Any],
    output: Path,
    command: list[str],
    overwrite: bool,
) -> None:
    model = {name: file_hash(run / name) for name in ("config.json", "model.safetensors")}
    manifest = Manifest("eval", command, settings.to_config(output), inputs | {"model": model})
    with run_folder(output, overwrite=overwrite) as draft:
        write_json(draft / "evaluation.json", figures)
        manifest.write(draft)


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _tables(figures: Evaluation) -> tuple[Any, ...]:
    table = figures_table("", "baseline", "implicit model")
    table.add_row("accuracy", _per_cent(figures.baseline_accuracy), _per_cent(figures.accuracy))
    if figures.attacks and figures.attacked_samples < figures.samples:
        clean = figures.baseline_clean_accuracy_of_attacked, figures.clean_accuracy_of_attacked
        table.add_row("accuracy on the attacked samples", *map(_per_cent, clean))
    for attack in figures.attacks:
        table.add_row(f"FGSM, ε = {attack.eps}", _per_cent(attack.baseline_fgsm), _per_cent(attack.fgsm))
        name = f"PGD-{figures.pgd_steps}, ε = {attack.eps}"
        table.add_row(name, _per_cent(attack.baseline_pgd), _per_cent(attack.pgd))
    table.add_row("agreement with the baseline", "", _per_cent(figures.agreement))
    table.add_row("weights", f"{figures.baseline_weights:,}", f"{figures.nnz:,}")
    table.add_row("sparsity, against the baseline", "", f"{figures.sparsity:.2f} %")
    table.add_row("sparsity, against size(M)", "", f"{figures.sparsity_of_size:.2f} %")
    pf = figures.perron_frobenius
    table.add_row("λ_pf between", "", f"{pf.lower:.4g} and {pf.upper:.4g}")
    table.add_row("‖A‖∞", "", f"{figures.norm_inf:.4f}")
    if figures.storage_bits is not None:
        stored = figures.baseline_dense_weight_bits, figures.storage_bits
        table.add_row("storage, KiB: dense weights, sparse model", *(f"{bits / 8192:.1f}" for bits in stored))
        table.add_row("storage, baseline / implicit model", "", f"{figures.storage_ratio:.2f}")
    steps = f", {figures.equilibrium_iterations} steps" if figures.equilibrium_iterations else ""
    table.add_row("equilibrium", "", f"{figures.equilibrium_method}{steps}")
    table.add_row("error of the states at most", "", f"{figures.equilibrium_error_bound:.1e}")
    notes = []
    if figures.attacks and figures.attacked_samples < figures.samples:
        notes.append(f"\nAttacks on the first {figures.attacked_samples:,} test samples.")
    return (table, *notes)
