"""``simplicit fit``: from a trained network to a sparse, well-posed implicit model."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, say, show_progress
from simplicit.cli.options import (
    Alpha,
    Beta,
    BlockRows,
    BlockTimeout,
    DataDir,
    ExecutorOption,
    Gamma,
    InputShape,
    JournalOption,
    Json,
    Model,
    NormalizeName,
    Overwrite,
    PenaltyName,
    PenaltyOption,
    Preset,
    RayAddress,
    Resume,
    Rounds,
    StructureName,
    Throw,
    Tol,
    TrustPt2,
    Weights,
    Workers,
    check_resumable,
    parse_kappa,
    parse_shape,
)
from simplicit.runs.fitting import FitRun, capture_task, run_fit, save_fit
from simplicit.runs.folder import check_output
from simplicit.runs.penalties import NUMBERS
from simplicit.runs.settings import FitSettings, read_config
from simplicit.runs.task import check_unchanged, open_task
from simplicit.training import preset_of
from simplicit.training.channels import has_convolutions

__all__ = ["fit_command"]

_PROBLEM = "Problem (7)"
_SPARSITY = "Sparsity"
_SAMPLES = "Data"
_ROBUST = "Robustness"
_RUNNING = "Running"
_DEFAULT = FitSettings(baseline="")
_OF_THE_COMMAND = {"context", "trust_pt2", "output", "overwrite", "json", "config", "journal", "resume"}
_NETWORK = ("baseline", "model", "weights")


def fit_command(
    context: typer.Context,
    baseline: Annotated[
        Path | None,
        typer.Argument(metavar="BASELINE", help="Folder that `simplicit baseline` wrote.", show_default=False),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    trust_pt2: TrustPt2 = False,
    input_shape: InputShape = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, fashion-mnist, cifar-10, cifar-100, or a folder or .npz file. Default: the baseline's own.",
            rich_help_panel=_SAMPLES,
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Training samples, drawn at random, or all if there are fewer and none are asked for; labels are not "
            "used.",
            rich_help_panel=_SAMPLES,
        ),
    ] = _DEFAULT.samples,
    seed: Annotated[int, typer.Option(help="Of that draw.", rich_help_panel=_SAMPLES)] = _DEFAULT.seed,
    preset: Preset = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Wanted share of zeros, in per cent of the baseline's weights: met to the weight with --refine, else "
            "within 0.5 points by scaling the penalty. Default: the penalty as it is.",
            rich_help_panel=_SPARSITY,
            show_default=False,
        ),
    ] = None,
    penalty: PenaltyOption = PenaltyName.L1,
    beta: Beta = None,
    alpha: Alpha = None,
    gamma: Gamma = None,
    rounds: Rounds = _DEFAULT.rounds,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine",
            help="Choose the support by elimination and exchanges, at one price for a weight in the whole model.",
            rich_help_panel=_SPARSITY,
        ),
    ] = _DEFAULT.refine,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit",
            help="Take the values from ridge on the support, not from the penalty, which shrinks them.",
            rich_help_panel=_SPARSITY,
        ),
    ] = _DEFAULT.refit,
    ridge: Annotated[
        float | None,
        typer.Option(
            help="Of refine and refit, in units of the mean square of a column; default: the preset's, or 0.001.",
            rich_help_panel=_SPARSITY,
        ),
    ] = _DEFAULT.ridge,
    anchor: Annotated[
        float | None,
        typer.Option(
            help="Share of the baseline's weights that ridge draws to, from 0 (robust) to 1 (accurate); default: the "
            "preset's, or 0.",
            rich_help_panel=_SPARSITY,
        ),
    ] = _DEFAULT.anchor,
    states: Annotated[
        str,
        typer.Option(
            help="States of the model: all, blocks (the last activation of each block), or groups by name, separated "
            "by commas. A choice needs another structure than baseline.",
            rich_help_panel=_SPARSITY,
        ),
    ] = _DEFAULT.states,
    structure: Annotated[
        StructureName,
        typer.Option(
            help="Where M may have entries: where the baseline has weights; strictly block-upper triangular; zero "
            "diagonal of A; everywhere.",
            rich_help_panel=_SPARSITY,
        ),
    ] = StructureName.BASELINE,
    lambda1: Annotated[
        float, typer.Option(help="Weight of matching the states.", rich_help_panel=_PROBLEM)
    ] = _DEFAULT.lambda1,
    lambda2: Annotated[
        float, typer.Option(help="Weight of matching the outputs.", rich_help_panel=_PROBLEM)
    ] = _DEFAULT.lambda2,
    kappa: Annotated[
        str,
        typer.Option(
            help="Bound on ‖A‖∞, which below 1 proves well-posedness; none takes it away, for triangular structures, "
            "and is the default for networks with convolutions.",
            rich_help_panel=_PROBLEM,
            metavar="FLOAT|none",
        ),
    ] = str(_DEFAULT.kappa),
    normalize: Annotated[
        NormalizeName,
        typer.Option(
            help="Units of the penalty: targets scaled per layer; columns too; the paper's letter.",
            rich_help_panel=_PROBLEM,
        ),
    ] = NormalizeName.TARGETS,
    propagate: Annotated[
        bool,
        typer.Option(
            "--propagate/--no-propagate",
            help="Match each layer on the states of the layers just trained, or all on the baseline's.",
            rich_help_panel=_PROBLEM,
        ),
    ] = _DEFAULT.propagate,
    regenerate: Annotated[
        bool,
        typer.Option(
            "--regenerate/--no-regenerate",
            help="Match C and D on the new model's own states, or on the baseline's.",
            rich_help_panel=_PROBLEM,
        ),
    ] = _DEFAULT.regenerate,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust/--no-robust",
            help="Train for robustness: ℓ1 of the worst case, one-sided, on the model's own worst cases too. See the "
            "presets robust and certified.",
            rich_help_panel=_ROBUST,
        ),
    ] = _DEFAULT.robust,
    later: Annotated[
        float,
        typer.Option(
            help="Strength on the states of later layers, relative to that on inputs: large ones raise what can be "
            "proved, small ones keep accuracy.",
            rich_help_panel=_ROBUST,
        ),
    ] = _DEFAULT.later,
    attacks: Annotated[
        int, typer.Option(help="Rounds of worst cases that join the samples.", rich_help_panel=_ROBUST)
    ] = _DEFAULT.attacks,
    attack_eps: Annotated[
        float, typer.Option(help="Radius of the box that they are searched in, by PGD.", rich_help_panel=_ROBUST)
    ] = round(_DEFAULT.attack_eps, 5),
    tol: Tol = _DEFAULT.tol,
    executor: ExecutorOption = _DEFAULT.executor,
    workers: Workers = _DEFAULT.workers,
    block_rows: BlockRows = _DEFAULT.block_rows,
    ray_address: RayAddress = _DEFAULT.ray_address,
    block_timeout: BlockTimeout = _DEFAULT.block_timeout,
    journal: JournalOption = None,
    resume: Resume = False,
    throw: Throw = _DEFAULT.throw,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Repeat the run of a run.json, or read settings from a .toml file; options given here win.",
            rich_help_panel=_RUNNING,
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel="Output")] = Path("runs/fit"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Retrain a network as a sparse, well-posed implicit model, by convex optimisation on its own states.

    The network comes from BASELINE, a folder of `simplicit baseline`, or from --model and --weights. Every row of M is
    solved to a proven duality gap. The folder written holds config.json and model.safetensors (read them with
    simplicit.load), rows.json with the certificate of every row, and run.json, which repeats the run.

    Example: `simplicit fit runs/baseline --preset sparse --sparsity 90 --output runs/fit`
    """
    check_resumable(journal, resume=resume)
    read = [path for path in (baseline, journal) if path is not None]
    check_output(output, overwrite=overwrite, kind="fit", inputs=read)
    recorded, inputs = read_config(config) if config is not None else ({}, {})
    told = _merged(recorded, _given(context))
    settings = FitSettings.from_mapping(told, str(config or "options"))
    task = open_task(settings, trust_pt2=trust_pt2)
    if config is not None and not {"data", "data_dir", *_NETWORK} & _given(context).keys():
        check_unchanged(inputs, task.inputs, config)
    if "samples" not in told:  # the default, or all if there are fewer
        settings = replace(settings, samples=min(settings.samples, len(task.data.train_labels)))
    captured = capture_task(task)
    tied = settings.states == "all" and has_convolutions(captured.graph)
    if "kappa" not in told and settings.preset is None and tied:
        settings = replace(settings, kappa=None)  # the default is a ball that tied rows do not have
    with show_progress(clock=settings.sparsity is not None) as steps:
        run = run_fit(settings, task, baseline=captured.model, journal=journal, progress=steps)
    save_fit(run, output, command=command_line(context), overwrite=overwrite)
    if json:
        print_json({"folder": output} | run.results())
    else:
        say(run.result.summary(), "", _table(run), f"\nSaved in {output}. Next: simplicit eval {output}")


def _given(context: typer.Context) -> dict[str, Any]:
    """The settings that were typed, not left at their defaults, in the types of `FitSettings`."""
    given: dict[str, Any] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in _OF_THE_COMMAND or source is None or source.name == "DEFAULT":
            continue
        given[name] = str(value) if isinstance(value, Path) else value
        if isinstance(value, enum.Enum):
            given[name] = value.value
    if "kappa" in given:
        given["kappa"] = parse_kappa(given["kappa"])
    if "input_shape" in given:
        given["input_shape"] = parse_shape(given["input_shape"])
    return given


def _merged(recorded: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was typed before what was recorded; a network, penalty or preset replaces the recorded one as a whole."""
    if given.get("preset") is not None:
        presets = [preset_of(name) for name in (given["preset"], recorded.get("preset")) if name is not None]
        replaced = {*(name for preset in presets for name in preset.settings({})), *NUMBERS, "ridge", "anchor"}
        recorded = {name: value for name, value in recorded.items() if name not in replaced}
    if given.keys() & set(_NETWORK):
        recorded = {name: value for name, value in recorded.items() if name not in (*_NETWORK, "input_shape")}
    if given.get("penalty", recorded.get("penalty", "l1")) != recorded.get("penalty", "l1"):
        recorded = {name: value for name, value in recorded.items() if name not in NUMBERS}
    return recorded | given


def _table(run: FitRun) -> Any:
    table = figures_table("On the test samples", "baseline", "implicit model")
    table.add_row("accuracy", f"{100 * run.baseline_accuracy:.2f} %", f"{100 * run.accuracy:.2f} %")
    table.add_row("agreement with the baseline", "", f"{100 * run.agreement:.2f} %")
    return table
