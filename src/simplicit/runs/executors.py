"""The executor that the settings of a run name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from simplicit.errors import InputError
from simplicit.executors import EXECUTORS, Executor, as_executor

__all__ = ["executor_of"]


def executor_of(
    name: str, workers: int | None = None, ray_address: str | None = None, block_timeout: float | None = None
) -> Executor:
    """A new executor of that name with these settings; nothing is started yet.

    Parameters
    ----------
    name : str
        One of ``EXECUTORS``.
    workers : int, optional
        As of the executor; one that has a single worker takes no notice.
    ray_address : str, optional
        The ``address`` of :class:`simplicit.Ray`.
    block_timeout : float, optional
        As of the executor.

    Raises
    ------
    InputError
        For an unknown name, a setting out of range, or one that the executor does not have.
    """
    as_executor(name)
    kind = EXECUTORS[name]
    known = {field.name for field in fields(kind) if field.init} if is_dataclass(kind) else set[str]()
    if ray_address is not None and "address" not in known:
        raise InputError(
            f"ray_address: the executor {name!r} joins no cluster; leave it out, or take 'ray'", argument="ray_address"
        )
    if block_timeout is not None and "block_timeout" not in known:
        raise InputError(
            f"block_timeout: the executor {name!r} cannot end a worker; leave it out, or take 'processes'",
            argument="block_timeout",
        )
    given = {"workers": workers, "address": ray_address, "block_timeout": block_timeout}
    try:
        return kind(**{setting: value for setting, value in given.items() if setting in known})
    except InputError as error:
        if error.argument == "address":
            raise InputError(f"ray_{error}", argument="ray_address") from None
        raise
