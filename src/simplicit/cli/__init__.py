"""The command line: ``simplicit demo``, ``baseline``, ``fit``, ``eval``, ``attack``, ``certify``, ``solve`` and more.

Commands only read options, call :mod:`simplicit.runs` and print. Whatever the library says on purpose becomes
one line on standard error and exit code 2; Ctrl-C is 130, SIGTERM 143.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.attack import attack_command
from simplicit.cli.baseline import baseline_command
from simplicit.cli.certify import certify_command
from simplicit.cli.console import complain
from simplicit.cli.demo import demo_command
from simplicit.cli.evaluate import eval_command
from simplicit.cli.export import export_command
from simplicit.cli.fit import fit_command
from simplicit.cli.frontier import frontier_command
from simplicit.cli.journal import journal_app
from simplicit.cli.report import report_command
from simplicit.cli.reproduce import figure5_command, reproduce_app
from simplicit.cli.solve import solve_command
from simplicit.cli.tables import table2_command, table3_command
from simplicit.errors import SimplicitError

__all__ = ["app", "main"]

# typer.BadParameter derives from the usage error of whichever click Typer is built on
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_INTERRUPTED = 130
_TERMINATED = 143
_COMMANDS = (
    demo_command,
    baseline_command,
    fit_command,
    eval_command,
    attack_command,
    certify_command,
    export_command,
    solve_command,
    report_command,
    figure5_command,
    frontier_command,
    table2_command,
    table3_command,
)
_OPTIONS = {name for command in _COMMANDS for name in inspect.signature(command).parameters}
_OPTIONS -= {"context", "run", "runs", "features", "targets", "baseline"}  # all but the first are arguments

app = typer.Typer(
    name="simplicit",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


@app.callback(invoke_without_command=True)
def simplicit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Turn a trained PyTorch network into a sparse, robust, well-posed implicit model.

    Two commands to begin with: `simplicit baseline`, then `simplicit fit runs/baseline --sparsity 65`. Or all at once:
    `simplicit demo`.
    """
    if version:
        from simplicit import __version__

        typer.echo(f"simplicit {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


app.command("demo")(demo_command)
app.command("baseline")(baseline_command)
app.command("fit")(fit_command)
app.command("eval")(eval_command)
app.command("attack")(attack_command)
app.command("certify")(certify_command)
app.command("export")(export_command)
app.command("report")(report_command)
app.command("solve")(solve_command)
app.add_typer(journal_app, name="journal")
app.add_typer(reproduce_app, name="reproduce")


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
    with _termination_as_interrupt() as terminated:
        code = _run(typed)
    if code == _INTERRUPTED:
        complain("interrupted")
        return _TERMINATED if terminated else code
    return code


def _run(typed: list[str]) -> int:
    """The exit code of a command, its error told in one line."""
    try:
        code = app(args=typed, prog_name="simplicit", standalone_mode=False, obj=typed)
        sys.stdout.flush()
    except SimplicitError as error:
        complain(_in_options(str(error)))
    except _USAGE_ERROR as error:
        complain(_usage(error))
    except OSError as error:  # standard output, while help is printed, or a disk that is full
        complain(f"{error.filename or 'output'} cannot be read or written ({error.strerror or error})")
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    else:
        return code if isinstance(code, int) else 0  # newer Typers return 130 after Ctrl-C themselves
    _discard_output()
    return 2


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


def _in_options(message: str) -> str:
    """``learning_rate must be ...`` and ``learning_rate: ...`` as the option is typed: ``--learning-rate ...``."""

    def option(found: re.Match[str]) -> str:
        return f"--{found[0].replace('_', '-')}" if found[0] in _OPTIONS else found[0]

    message = re.sub(r"^radius(?= must )", "kappa", message)  # the ball's number is an option of its own here
    message = message.replace("With throw=False they are returned, marked", "With --no-throw they are written, marked")
    return re.sub(r"^\w+(?= must |: )|(?<=; lower )\w+(?==)", option, message)


def _usage(error: Any) -> str:
    """What was wrong and where help is."""
    command = error.ctx.command_path if error.ctx is not None else "simplicit"
    return f"{error.format_message().rstrip('.')}; see {command} --help"
