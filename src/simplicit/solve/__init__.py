"""Many row problems that share a design become blocks, are solved wherever, and come back as solutions.

``front`` is what a user calls; ``input`` checks what comes in, ``sources`` knows features and targets in whatever form,
``cut`` says where blocks begin, ``work`` lays out what they need, ``block`` solves one, ``collect`` puts them back
together, ``run`` runs all that on an executor, and ``parts`` does so in parts that know nothing of each other.
"""

from simplicit.solve.front import beta_max, raise_unconverged, solve_path, solve_rows
from simplicit.solve.parts import JournalState, journal_state, merge_journals, solve_part
from simplicit.solve.run import Method, RunOptions

__all__ = [
    "JournalState",
    "Method",
    "RunOptions",
    "beta_max",
    "journal_state",
    "merge_journals",
    "raise_unconverged",
    "solve_part",
    "solve_path",
    "solve_rows",
]
