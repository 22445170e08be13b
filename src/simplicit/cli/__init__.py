"""The command line: ``simplicit demo``, ``baseline``, ``fit``, ``eval``.

Commands only read options, call :mod:`simplicit.experiments` and print. Whatever the library says on purpose becomes
one line on standard error and exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from simplicit.cli.baseline import baseline_command
from simplicit.cli.console import complain
from simplicit.cli.demo import demo_command
from simplicit.cli.evaluate import eval_command
from simplicit.cli.fit import fit_command
from simplicit.errors import SimplicitError

__all__ = ["app", "main"]

# typer.BadParameter derives from the usage error of whichever click Typer is built on
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_INTERRUPTED = 130

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=typed, prog_name="simplicit", standalone_mode=False, obj=typed)
    except SimplicitError as error:
        complain(str(error))
        return 2
    except _USAGE_ERROR as error:
        complain(_usage(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:  # newer Typers turn Ctrl-C into this code themselves
        complain("interrupted; nothing was written")
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    """What was wrong and where help is."""
    command = error.ctx.command_path if error.ctx is not None else "simplicit"
    return f"{error.format_message().rstrip('.')}; see {command} --help"
