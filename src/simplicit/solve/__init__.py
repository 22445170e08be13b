"""Many row problems that share a design become blocks, are solved wherever, and come back as solutions.

``front`` is what a user calls, and ``parts`` the same in parts that know nothing of each other. Both let ``input``
check what comes in, and ``run`` run it on an executor, with the ``options``. ``work`` lays out the ``arrays`` that
the blocks need, ``block`` solves one, ``collect`` puts them back together, and ``memory`` refuses what does not fit.
Below them ``cut`` says which rows make a block, and ``sources`` knows features and targets in whatever form.
"""

from simplicit.solve.front import beta_max, raise_unconverged, solve_path, solve_rows
from simplicit.solve.options import Method, RunOptions
from simplicit.solve.parts import JournalState, journal_state, merge_journals, solve_part

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
