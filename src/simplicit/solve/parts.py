"""A solve in parts that know nothing of each other, such as the tasks of a job array, and the solution from all.

Every part solves its share of the blocks into a journal, one for all parts or one for each. Nothing but the journals is
needed to put the solution together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.checks import as_count, refused
from simplicit.errors import DataError, InputError
from simplicit.executors import Executor, Journal, Section
from simplicit.progress import OnProgress
from simplicit.rows import Ball, Penalty, Solution
from simplicit.solve.arrays import BlockResult
from simplicit.solve.collect import Collected, SolveFacts
from simplicit.solve.input import path_problems
from simplicit.solve.options import Method, RunOptions
from simplicit.solve.run import run_problems

#: Blocks that a message lists.
_LISTED = 8


@dataclass(frozen=True)
class JournalState:
    """What there is in the journals of a solve.

    Attributes
    ----------
    rows, columns : int
    blocks : int
        In all.
    missing : tuple of int
        The blocks that are in none of the journals.
    """

    rows: int
    columns: int
    blocks: int
    missing: tuple[int, ...]

    @property
    def finished(self) -> int:
        """How many blocks there are."""
        return self.blocks - len(self.missing)

    def __str__(self) -> str:
        return f"{self.finished} of {self.blocks} blocks, {self.rows:,} rows x {self.columns:,} columns"


def solve_part(
    part: tuple[int, int],
    features: Any,
    targets: Any = None,
    penalties: Sequence[Penalty] | Penalty | None = None,
    *,
    journal: str | PathLike[str],
    weight: float | npt.ArrayLike = 1.0,
    ball: Ball | Sequence[Ball | None] | None = None,
    support: npt.ArrayLike | None = None,
    intercept: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    rounds: int = 1,
    tol: float = 1e-6,
    warm_start: Solution | csr_array | npt.ArrayLike | None = None,
    solver: str = "active-set",
    executor: str | Executor = "threads",
    block_rows: int | None = None,
    device: str = "cpu",
    progress: OnProgress | None = None,
) -> JournalState:
    """Solve one part of what :func:`solve_rows` or :func:`solve_path` would, and leave it in the journal.

    Runs of different parts may go on at the same time, on different machines, with one journal on a file system that
    they share, or with a journal each. :func:`merge_journals` makes the solution of them; so does ``solve_rows`` or
    ``solve_path`` with the same arguments and the journal, which solves what is missing first.

    Parameters
    ----------
    part : (int, int)
        Which part this is, from 1, and how many there are.
    penalties : Penalty, or sequence of them
        One as for ``solve_rows``, or those of a path; ``rounds`` and ``warm_start`` go with one alone.
    journal : path
        The folder of the journal.
    features, targets, weight, ball, support, intercept, sample_weight, rounds, tol, warm_start, solver
        The problem, as for :func:`solve_rows` and :func:`solve_path`.
    executor, block_rows, device, progress
        How it is solved, likewise.

    Returns
    -------
    JournalState
        What is in this journal, of all parts.

    Raises
    ------
    InputError, ExecutionError, DataError, MissingExtraError
        As :func:`solve_rows`.
    """
    method = Method(tol=tol, rounds=rounds, solver=solver, block_rows=block_rows)
    options = RunOptions(executor, journal, progress, _checked_part(part))
    problems = path_problems(
        features,
        targets,
        penalties,
        ball,
        weight,
        support,
        intercept=intercept,
        device=device,
        sample_weight=sample_weight,
        warm_start=warm_start,
    )
    if len(problems) > 1 and rounds > 1:
        raise refused("rounds", "a path has no re-weighted rounds; give one penalty, or leave rounds out")
    run_problems(problems, method, options)
    return journal_state([journal])


def _checked_part(part: tuple[int, int]) -> tuple[int, int]:
    """Which part of how many; InputError where there is none such."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise refused("part", f"expected a pair such as (1, 16), the first of 16 parts, got {part!r}")
    number, of = as_count("part", part[0]), as_count("part", part[1])
    if number > of:
        raise refused("part", f"{number} of {of} does not exist; the parts are 1 to {of}")
    return number, of


def journal_state(journals: Sequence[str | PathLike[str]]) -> JournalState:
    """What there is in the journals of one solve, also while parts are still writing.

    Raises
    ------
    InputError
        If a folder is no journal of a solve, or they are of different ones.
    """
    sections = _sections(journals)
    facts = _facts(sections[0])
    found = {number for section in sections for number in section.numbers()}
    missing = tuple(number for number in range(facts.blocks) if number not in found)
    return JournalState(facts.rows, facts.columns, facts.blocks, missing)


def merge_journals(journals: Sequence[str | PathLike[str]]) -> list[Solution]:
    """The solutions that the blocks in some journals make together, whoever has solved them.

    Parameters
    ----------
    journals : sequence of paths
        Of one solve, to the bit: the same inputs, settings and versions.

    Returns
    -------
    list of Solution
        One for each member of a path; otherwise one, with its rounds before in ``earlier``.

    Raises
    ------
    InputError
        If a folder is no journal of a solve, they are of different ones, or blocks are missing.
    DataError
        If a journal cannot be read.
    """
    sections = _sections(journals)
    facts = _facts(sections[0])
    collected, missing = Collected(facts), list[int]()
    for number in range(facts.blocks):
        found = next((result for section in sections if (result := section.load(number, BlockResult))), None)
        if found is None:
            missing.append(number)
        else:
            collected.put(found)
    if missing:
        listed = ", ".join(map(str, missing[:_LISTED])) + (" and more" if len(missing) > _LISTED else "")
        what = f"{len(missing)} of {facts.blocks} blocks are missing or damaged ({listed})"
        raise refused("journals", f"{what}; solve their parts again, or all that is left in one run with the journal")
    return collected.solutions()


def _sections(journals: Sequence[str | PathLike[str]]) -> list[Section]:
    """The sections of one solve that the journals keep."""
    if isinstance(journals, str | PathLike) or not len(journals):
        raise refused("journals", "give a sequence of folders, at least one")
    first, *others = [_solve_section(Path(journal)) for journal in journals]
    for section in others:
        if section.key != first.key:
            raise refused("journals", f"{section.folder.parent} and {first.folder.parent} are of different solves")
    return [first, *others]


def _solve_section(folder: Path) -> Section:
    """The section of the solve that a folder is a journal of."""
    journal = Journal.read(folder)
    if journal.facts.get("kind") != "solve":
        raise InputError(f"journal {folder}: is of a {journal.facts.get('kind')}; only solves are merged")
    sections = [section for section in journal.sections() if section.key == journal.key]
    if not sections:
        raise InputError(f"journal {folder}: holds no blocks yet")
    return sections[0]


def _facts(section: Section) -> SolveFacts:
    found = {field.name: section.facts.get(field.name) for field in fields(SolveFacts)}
    for name, value in found.items():
        if not isinstance(value, int if name != "tol" else float):
            raise DataError(f"journal {section.folder.parent}: its section has no {name!r}; begin a new journal")
    return SolveFacts(**found)  # type: ignore[arg-type]  # they have just been looked at
