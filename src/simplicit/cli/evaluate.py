"""``simplicit eval``: the figures of a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from simplicit.checks import refused
from simplicit.cli.console import figures_table, percent, print_json, say, show_progress
from simplicit.cli.fit import texts_table
from simplicit.cli.invocation import invocation
from simplicit.cli.shared import OtherSource, Output
from simplicit.runs.evaluate import Evaluation, EvaluationSettings, run_evaluation
from simplicit.runs.hf.fitting import run_text_evaluation
from simplicit.runs.settings import read_source


def evaluate(
    run: Path,
    /,
    settings: EvaluationSettings = EvaluationSettings(),
    source: OtherSource = OtherSource(),
    output: Output = Output(),
    *,
    test_texts: Annotated[Path | None, "Network and data"] = None,
    labels: Annotated[Path | None, "Network and data"] = None,
    against_size: Annotated[bool, "Output"] = False,
) -> None:
    """Measure a fitted model on the test samples, beside the baseline that it came from.

    Prints accuracy, agreement, sparsity against the baseline's weights, λ_pf with its bounds, ‖A‖∞, storage, how the
    equilibrium is found, and accuracy under FGSM and PGD for every --eps. Each model is attacked on its own gradient.
    What says nothing of a network is left out or put in words: ‖A‖∞ beside norms and attention, a
    bound on rounding that is larger than the outputs. Tables are in per cent, --json and files have shares and all
    numbers; ε is in units of the inputs. With --output, evaluation.json and run.json are written too.

    A network that was fitted on --texts is measured on those held out, beside the dense one, as its head suggests:
    classifiers by agreement, and by accuracy where there are --labels; language models by perplexity, of hidden tokens
    where they are masked, and by the agreement of the likeliest token; networks without a head by the cosine of their
    embeddings, means over the tokens, by nearest neighbours and by the correlation of similarities.

    Example: `simplicit eval runs/fit --eps 0.004 --eps 8/255 --json`

    Parameters
    ----------
    run : Path
        Folder that `simplicit fit` wrote.
    settings, source, output
    test_texts : Path, optional
        Other texts to measure on, one a line, than those that were held out of the fit.
    labels : Path, optional
        The classes of the texts that are measured on, one a line.
    against_size : bool
        Print the sparsity against the size of M too, as the paper counts it: zeros that no network could fill included.
    """
    output.check("eval", [run])
    if read_source(run).texts is not None:
        _on_texts(run, settings, output, test_texts=test_texts, labels=labels)
        return
    for name, value in (("test_texts", test_texts), ("labels", labels)):
        if value is not None:
            raise refused(name, f"{run} was fitted on data; name others with --data", value)
    with show_progress() as steps:
        found = run_evaluation(run, settings, progress=steps, **vars(source))
    if output.output is not None:
        found.save(output.output, **output.saving())
    if output.json:
        print_json(found.results())
    else:
        title = f"{run} on {found.figures.samples:,} test samples of {found.task.data.name}"
        say(figures_table(title), *_tables(found.figures, against_size=against_size))


def _on_texts(run: Path, settings: EvaluationSettings, output: Output, **others: Path | None) -> None:
    """Measure a fit on texts."""
    for name in ("against_size", "eps", "pgd_steps", "attack_samples", "baseline", "data", "data_dir", "trust_pt2"):
        if name in invocation().given:
            raise refused(name, f"{run} was fitted on texts, which are not attacked, and not on data; leave it out")
    with show_progress():
        found = run_text_evaluation(run, seed=settings.seed, **others)
    if output.output is not None:
        found.save(output.output, **output.saving())
    if output.json:
        print_json(found.results())
        return
    table = texts_table(found.figures, f"{run} on the test texts")
    table.add_row("weights", f"{found.figures['baseline_weights']:,}", f"{found.figures['nnz']:,}")
    table.add_row("sparsity, against the baseline", "", f"{found.figures['sparsity']:.2f} %")
    say(table, *(f"Note: {remark}." for remark in found.task.remarks))


def _tables(figures: Evaluation, *, against_size: bool) -> tuple[Any, ...]:
    table = figures_table("", "baseline", "implicit model")

    def add_shares(name: str, *shares: float) -> None:
        table.add_row(name, *(f"{percent(share)} %" for share in shares))

    some_attacked = bool(figures.attacks) and figures.attacked_samples < figures.samples
    add_shares("accuracy", figures.baseline_accuracy, figures.accuracy)
    if some_attacked:
        clean = figures.baseline_clean_accuracy_of_attacked, figures.clean_accuracy_of_attacked
        add_shares("accuracy on the attacked samples", *clean)
    for attack in figures.attacks:
        add_shares(f"FGSM, ε = {attack.eps}", attack.baseline_fgsm, attack.fgsm)
        add_shares(f"PGD-{figures.pgd_steps}, ε = {attack.eps}", attack.baseline_pgd, attack.pgd)
    table.add_row("agreement with the baseline", "", f"{percent(figures.agreement)} %")
    table.add_row("weights", f"{figures.baseline_weights:,}", f"{figures.nnz:,}")
    table.add_row("sparsity, against the baseline", "", f"{figures.sparsity:.2f} %")
    if against_size:
        table.add_row("sparsity, against size(M)", "", f"{figures.sparsity_of_size:.2f} %")
    pf = figures.perron_frobenius
    bounds = f"between {pf.lower:.4g} and {pf.upper:.4g}" if pf.upper else "0, no state depends on itself"
    table.add_row("λ_pf", "", bounds)
    if not figures.unbounded:
        table.add_row("‖A‖∞", "", f"{figures.norm_inf:.4f}")
    if figures.storage_bits is not None:
        stored = figures.baseline_dense_weight_bits, figures.storage_bits
        table.add_row("storage, KiB: dense weights, sparse model", *(f"{bits / 8192:.1f}" for bits in stored))
        table.add_row("storage, baseline / implicit model", "", f"{figures.storage_ratio:.2f}")
    steps = f", {figures.equilibrium_iterations} steps" if figures.equilibrium_iterations else ""
    table.add_row("equilibrium", "", f"{figures.equilibrium_method}{steps}")
    table.add_row("rounding in the states", "", _rounding(figures))
    return table, *([f"\nAttacks on the first {figures.attacked_samples:,} test samples."] if some_attacked else [])


def _rounding(figures: Evaluation) -> str:
    """The bound on what rounding does to the states, where it is below what outputs span, or why there is none."""
    bound = figures.equilibrium_error_bound
    if bound < figures.output_range:
        return f"at most {bound:.1e}"
    through = f", through {' and '.join(figures.unbounded[:3])}" if figures.unbounded else ""
    return f"no useful bound{through}"
