"""Every error that simplicit raises on purpose.

All of them are :class:`SimplicitError`, so that one ``except`` catches what the library says and nothing else; the
command line turns each into one line and exit code 2. A message names the argument, file or row, what was found there,
and what to do.
"""

from __future__ import annotations


class SimplicitError(Exception):
    """Base of all errors raised by simplicit."""


class InputError(SimplicitError, ValueError):
    """An argument is wrong: its shape, its type, its range or its values.

    Attributes
    ----------
    argument : str or None
        The argument with whose name the message begins, where it does: the command line shows its option there.
    """

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class DataError(SimplicitError, OSError):
    """A file or folder is missing, damaged, truncated or not what it should be."""


class ExecutionError(SimplicitError, RuntimeError):
    """Blocks of rows could not be run: a worker failed again and again, or a block for a reason of its own."""


class MissingExtraError(SimplicitError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class UnsupportedOperationError(SimplicitError, TypeError):
    """A network contains an operation that has no exact implicit form here.

    Attributes
    ----------
    operation : str
        The operation as torch names it.
    where : str
        Its place in the network.
    """

    def __init__(self, message: str, *, operation: str, where: str) -> None:
        super().__init__(message)
        self.operation = operation
        self.where = where


class NotWellPosedError(SimplicitError, ValueError):
    """λ_pf(|A|) < 1 fails or could not be shown, so that the equilibrium may not exist or not be unique.

    Attributes
    ----------
    lower, upper : float
        Collatz-Wielandt bounds on λ_pf(diag(L)|A|), L the slope bounds of the activations.
    """

    def __init__(self, message: str, *, lower: float, upper: float) -> None:
        super().__init__(message)
        self.lower = lower
        self.upper = upper


class ConvergenceError(SimplicitError, ArithmeticError):
    """Some rows did not reach the tolerance.

    Attributes
    ----------
    finding : str
        Which rows, and how far they came; the message says what can be done besides.
    solution : object
        What was computed all the same, each row marked with its status and its duality gap.
    """

    def __init__(self, finding: str, *, solution: object = None) -> None:
        super().__init__(f"{finding}. With throw=False they are returned, marked")
        self.finding = finding
        self.solution = solution


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 160 characters, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
