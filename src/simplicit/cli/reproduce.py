"""``simplicit reproduce``: the paper's figures and tables again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simplicit.cli.console import saved, show_progress, shown
from simplicit.cli.shared import Named, Output
from simplicit.data import Dataset, load_dataset
from simplicit.progress import OnProgress, phase
from simplicit.studies.figure5 import Figure5Settings, figure5_study, run_figure5
from simplicit.studies.frontier import FrontierSettings, frontier_study, run_frontier
from simplicit.studies.study import KIND, Study
from simplicit.studies.tables import TableSettings, run_table, table_study

_DATA = Named("fashion-mnist")


def _reproduce(run: Callable[[Dataset, OnProgress], Study], data: Named, output: Output) -> None:
    """Run a study on named data, write its folder, and print its tables."""
    output.check(KIND)
    with show_progress() as steps:
        dataset = load_dataset(data.data, data.data_dir)
        study = run(dataset, steps)
        with phase("drawing"):
            study.save(output.folder, dataset, **output.saving())
    where = saved(output.folder, study.picture) if study.picture else f"Saved in {output.folder}."
    output.show(study.figures, *map(shown, study.tables), "", *study.notes, where)


def figure5(
    data: Named = _DATA,
    settings: Figure5Settings = Figure5Settings(),
    output: Output = Output(Path("runs/figure5")),
) -> None:
    """Figure 5: the same rows by every executor, in wall-clock time, and equal to the bit.

    Each executor solves the state rows of a network cold, its workers to be started first, and warm, with those of the
    call before; and a problem of no size, whose time is what the executor costs by itself. The folder written holds
    figure5.json, figure5.md, run.json and, with the extra `report` installed, figure5.png. Run it on a quiet machine.

    Example: `simplicit reproduce figure5 --data-dir data --output runs/figure5`
    """
    _reproduce(lambda found, steps: figure5_study(run_figure5(found, settings, progress=steps)), data, output)


def frontier(
    settings: FrontierSettings,
    data: Named = _DATA,
    output: Output = Output(Path("runs/frontier")),
) -> None:
    """Sparsity against accuracy, clean and attacked, of this method and of others on the same samples.

    Every peer is given an equal share of every layer and, apart, the numbers of weights that ours gives to the layers;
    peers that fit weights match their own targets and, apart, the baseline's states. The folder written holds
    frontier.json, frontier.md, run.json and, with the extra `report` installed, frontier.png.

    Example: `simplicit reproduce frontier --data-dir data --output runs/frontier`
    """
    _reproduce(lambda found, steps: frontier_study(run_frontier(found, settings, progress=steps)), data, output)


def _table(number: int, settings: TableSettings, data: Named, output: Output) -> None:
    _reproduce(lambda found, steps: table_study(run_table(found, number, settings, progress=steps)), data, output)


def table2(
    data: Named = _DATA,
    settings: TableSettings = TableSettings(),
    output: Output = Output(Path("runs/table2")),
) -> None:
    """Table 2: the perspective relaxation (10), by the letter, and a recipe beside it.

    The printed form, with γ = 0, has no zeros: it is pruned by size to the sparsity stated. The folder written holds
    table2.json, table2.md and run.json.

    Example: `simplicit reproduce table2 --data-dir data --output runs/table2`
    """
    _table(2, settings, data, output)


def table3(
    data: Named = _DATA,
    settings: TableSettings = TableSettings(),
    output: Output = Output(Path("runs/table3")),
) -> None:
    """Table 3: the ℓ1 norm (11), by the letter, and a recipe beside it.

    The folder written holds table3.json, table3.md and run.json.

    Example: `simplicit reproduce table3 --data-dir data --output runs/table3`
    """
    _table(3, settings, data, output)
