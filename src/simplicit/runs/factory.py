"""A network from the user's own code: ``package.module:factory`` and a file of weights, or a trusted ``.pt2``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simplicit.checks import refused
from simplicit.errors import DataError, InputError, first_line
from simplicit.runtime.files import load_weights


def load_network(model: str, weights: Path | None = None) -> nn.Module:
    """Import a factory, call it, load weights into what it returns; the network comes back in eval mode.

    `model` is ``"package.module:factory"``; the module may also lie in the current directory. The factory is a function
    or class that is called without arguments, or a finished ``nn.Module``. InputError is raised where the module or the
    attribute does not exist, importing or calling it fails, or no ``nn.Module`` comes back.
    """
    module_name, _, attribute = model.partition(":")
    if not module_name or not attribute:
        raise refused("model", "expected package.module:factory", repr(model))
    # Standard output belongs to the results; what the user's code prints goes beside the progress.
    with _current_directory_importable(), redirect_stdout(sys.stderr):
        net = _call(_attribute(_import(module_name, model), attribute, model), model)
    if weights is not None:
        load_weights(net, weights)
    return net.eval()


def load_program(path: Path, *, trust: bool) -> nn.Module:
    """A ``torch.export`` program. **Loading one can run code that it carries**, so it takes an explicit `trust`."""
    if not trust:
        raise InputError(
            f"{path}: loading a .pt2 program can run code that it carries; if you trust its author, add --trust-pt2, "
            "else give --model with --weights as safetensors"
        )
    if not path.is_file():
        raise DataError(f"weights {path}: no such file")
    try:
        return torch.export.load(path).module()
    except Exception as error:  # torch.export documents no error of its own
        raise DataError(f"{path}: damaged, or not a torch.export program ({_reason(error)})") from error


def _import(module_name: str, model: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            what = f"no module {error.name!r} on the Python path or in the current directory"
            raise refused("model", what, repr(model)) from error
        raise refused("model", f"importing it failed, {_reason(error)}", repr(model)) from error
    except (Exception, SystemExit) as error:  # the user's own module may raise anything
        raise refused("model", f"importing it failed, {_reason(error)}", repr(model)) from error


def _attribute(module: Any, attribute: str, model: str) -> Any:
    for name in attribute.split("."):
        if not hasattr(module, name):
            raise refused("model", f"{module.__name__} has no {name!r}", repr(model))
        module = getattr(module, name)
    return module


def _call(factory: Any, model: str) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise refused("model", f"{type(factory).__name__} cannot be called; name a function or a class", repr(model))
    try:
        net = factory()
    except (Exception, SystemExit) as error:  # the user's own factory may raise anything
        raise refused("model", f"calling it without arguments failed, {_reason(error)}", repr(model)) from error
    if not isinstance(net, nn.Module):
        raise refused("model", f"returned {type(net).__name__}, expected a torch.nn.Module", repr(model))
    return net


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
