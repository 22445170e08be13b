"""The command line: ``simplicit demo``, ``baseline``, ``fit``, ``eval``, ``attack``, ``certify``, ``solve`` and more.

Commands only take options, call :mod:`simplicit.runs` and print. Whatever the library says on purpose becomes one line
on standard error and exit code 2; Ctrl-C is 130, SIGTERM 143. What options need, and with it torch, is loaded once a
command is named: ``simplicit --help`` and ``--version`` do without.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts import App

from simplicit.cli.commands import COMMANDS, FAMILIES
from simplicit.cli.invocation import Invocation, complain, invoked
from simplicit.errors import ConvergenceError, InputError, SimplicitError

if TYPE_CHECKING:
    from simplicit.cli.signature import Signature

__all__ = ["main"]

_INTERRUPTED = 130
_TERMINATED = 143
_ABOUT = """Turn a trained PyTorch network into a sparse, robust, well-posed implicit model.

Two commands to begin with: `simplicit baseline`, then `simplicit fit runs/baseline --sparsity 90`, which takes the
recipe `sparse`, the most accurate network with so many weights; `matching` and `paper` are the convex problem of the
paper as it stands. Or all at once: `simplicit demo`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - stays open
    if sys.stdout is None:
        complain("standard output is closed; redirect it to /dev/null to do without")
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for word in typed:
        if "\0" in word or word.encode(errors="replace").decode() != word:
            complain(f"{word!r}: holds bytes that are no text in UTF-8; rename the file or the folder")
            return 2
    with _termination_as_interrupt() as terminated:
        code = _run(typed)
    if code == _INTERRUPTED:
        complain("interrupted")
        return _TERMINATED if terminated else code
    return code


def _run(typed: list[str]) -> int:
    """The exit code of a command; its error becomes one line."""
    name = next((name for name in COMMANDS if typed[: len(name.split())] == name.split()), "")
    signature: Signature | None = None
    try:
        if name:
            signature, recorded = _read(name, typed)
        given = _app(name, signature)(typed, exit_on_error=False, print_error=False)
        if signature is not None and given is not None:
            from simplicit.runs.settings import kept_of

            with invoked(Invocation(["simplicit", *typed], given)):
                signature.call(kept_of(recorded, given) | given)
        sys.stdout.flush()
    except SimplicitError as error:
        complain(_in_options(error, signature))
    except cyclopts.CycloptsError as error:
        complain(f"{_usage(error, signature)}; see {' '.join(['simplicit', *name.split()])} --help")
    except OSError as error:  # standard output, while help is printed, or a disk that is full
        complain(f"{error.filename or 'output'} cannot be read or written ({error.strerror or error})")
    except KeyboardInterrupt:
        return _INTERRUPTED
    else:
        return 0
    _discard_output()
    return 2


def _read(name: str, typed: list[str]) -> tuple[Signature, dict[str, Any]]:
    """The options of a command, and the settings of an earlier run that ``--config`` names."""
    from simplicit.cli.signature import Signature, choices_in
    from simplicit.runs.settings import kept_of, read_settings

    choices = choices_in(typed)
    recorded = read_settings(Path(choices["config"])) if name == "fit" and "config" in choices else {}
    return Signature(COMMANDS[name], kept_of(recorded, choices) | choices), recorded


def _app(name: str, signature: Signature | None) -> App:
    """All commands, that of a name with its options."""
    from simplicit import __version__

    app = App(
        name="simplicit",
        help=_ABOUT,
        version=f"simplicit {__version__}",
        help_format="markdown",
        version_format="plaintext",
        result_action="return_value",
    )
    families: dict[str, App] = {}
    for order, words in enumerate(COMMANDS):
        *family, last = words.split()
        place = app
        for word in family:
            if word not in families:
                families[word] = App(name=word, help=FAMILIES.get(word, ""), sort_key=order)
                app.command(families[word])
            place = families[word]
        shown = _listed(words) if words != name or signature is None else signature.flat()
        place.command(shown, name=last, sort_key=order)
    return app


def _listed(words: str) -> Callable[[], None]:
    """A command of which only its first line is shown."""

    def listed() -> None: ...

    listed.__doc__ = COMMANDS.about(words)
    return listed


@contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """SIGTERM cleans up as Ctrl-C does; the list yielded has the signal once it came."""
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        if not came:  # a second one would break off the clean-up
            came.append(number)
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where Python allows no handlers
        yield came
        return
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_output() -> None:
    """Send what could not be written nowhere, else Python tries once more at its exit and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _in_options(error: SimplicitError, signature: Signature | None) -> str:
    """What an error says, with the option in place of the argument that its message begins with."""
    message = str(error)
    if isinstance(error, ConvergenceError):
        return f"{error.finding}. With --no-throw they are written, marked"
    argument = error.argument if isinstance(error, InputError) else None
    if signature is None or argument is None or not message.startswith(argument):
        return message
    from simplicit.cli.signature import option_name

    return option_name(argument) + message[len(argument) :] if signature.has(argument) else message


def _usage(error: cyclopts.CycloptsError, signature: Signature | None) -> str:
    """What was wrong with the words that were typed."""
    if isinstance(error, cyclopts.UnknownOptionError) and signature is not None:
        from simplicit.cli.signature import option_name
        from simplicit.runs.options import owners

        word = (error.token.keyword or error.token.value).partition("=")[0]
        name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
        if found := owners(signature.options, signature.chosen, name):
            whose = " and of ".join(f"the {choice} {_any_of(names)}" for choice, names in found.items())
            remedy = " or ".join(f"{option_name(choice)} {names[0]}" for choice, names in found.items())
            return f"{word} is an option of {whose}; add {remedy}"
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"Unexpected argument: {' '.join(error.unused_tokens or [])}"
    message = str(error)
    return message if message.endswith("...") else message.removesuffix(".")


def _any_of(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
