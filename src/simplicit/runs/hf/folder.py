"""A folder as ``transformers`` writes it: read without running code that it carries, and written again.

Weights come from safetensors alone, the class from the library that is installed, by the name that ``config.json`` has
for it; nothing is looked up elsewhere. What cannot be read so is refused before ``transformers`` is imported, where its
files tell.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from simplicit.checks import refused
from simplicit.errors import DataError, InputError, MissingExtraError, first_line
from simplicit.files import read_json
from simplicit.progress import phase

#: What a run's manifest keeps the versions of.
PACKAGES = ("transformers", "tokenizers")
CONFIG = "config.json"
_SAFE, _PICKLES = ".safetensors", ("*.bin", "*.pt", "*.pth", "*.ckpt")
#: Any of these is a tokenizer's vocabulary.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "merges.txt")
_SHOWN = 3


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder, with at least one architecture and weights beside it that carry no code.

    InputError or DataError says what is missing or refused, and what to do.
    """
    if not folder.is_dir():
        what = "no such folder; name one that save_pretrained wrote, for nothing is looked up on the hub"
        raise refused("hf", what, folder)
    if not (folder / CONFIG).is_file():
        raise refused("hf", f"has no {CONFIG}; name a folder that save_pretrained wrote", folder)
    config = read_json(folder / CONFIG)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        what = 'names no architecture; write the class that it is of there, such as "architectures": ["BertModel"]'
        raise DataError(f"{folder / CONFIG}: {what}")
    if config.get("quantization_config"):
        raise refused("hf", "holds quantised weights, which are no real numbers; save it dequantised", folder)
    if not any(folder.glob(f"*{_SAFE}")):
        raise _no_weights(folder)
    return config


def _no_weights(folder: Path) -> InputError:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    weights = [name for name in pickles if "model" in name] or pickles
    if not weights:
        return refused("hf", "has no weights; save it with net.save_pretrained(folder)", folder)
    loaded = f"torch.load('{weights[0]}', weights_only=True, map_location='cpu')"
    copied = "{name: value.clone() for name, value in " + loaded + ".items()}"
    convert = f"safetensors.torch.save_file({copied}, 'model.safetensors', metadata={{'format': 'pt'}})"
    what = f"has its weights as a pickle, {weights[0]}, which could run code and is not read; convert it once: "
    return refused("hf", what + convert, folder)


def load_pretrained(folder: Path) -> nn.Module:
    """The network of a folder, in evaluation mode and in the dtype of its weights.

    InputError or DataError is raised where :func:`read_config` refuses the folder, its class is none of
    ``transformers``, or weights are missing, MissingExtraError where that is not installed.
    """
    name = str(read_config(folder)["architectures"][0])
    with phase(f"reading {folder}"):
        return _loaded(name, folder)


def _loaded(name: str, folder: Path) -> nn.Module:
    """The network of that class in a folder."""
    transformers = _transformers()
    kind = _class_of(transformers, name, folder)
    with _quietly(transformers):
        try:
            net, told = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype="auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below
            )
        except Exception as error:  # transformers documents no error of its own
            raise DataError(f"{folder}: cannot be loaded as a {name} ({_reason(error)})") from error
    other = [key[0] if isinstance(key, tuple) else key for key in told["mismatched_keys"]]
    if other:
        found = (
            f"the weights have another shape than those of a {name} of {CONFIG}: {', '.join(sorted(other)[:_SHOWN])}"
        )
        raise DataError(f"{folder}: {found}; save both together, net.save_pretrained(folder)")
    absent = sorted(map(str, told["missing_keys"]))
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        found = f"the weights miss {', '.join(absent[:_SHOWN])}{more} of a {name}, which would be random"
        raise DataError(f"{folder}: {found}; name the class that was trained in {CONFIG}")
    return net.eval()  # type: ignore[no-any-return]


def _class_of(transformers: Any, name: str, folder: Path) -> Any:
    kind = getattr(transformers, name, None)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind
    what = f"is a {name}, which transformers {transformers.__version__} has not; code of its own is never run"
    raise refused("hf", f"{what}: give it as --model package.module:factory", folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; DataError where there is none, or none that is read without code of its own."""
    remedy = "save it there, tokenizer.save_pretrained(folder), as a tokenizer.json where it has code of its own"
    if not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):
        raise refused("hf", f"has no tokenizer; {remedy}", folder)
    transformers = _transformers()
    with _quietly(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as above
            raise DataError(f"{folder}: its tokenizer cannot be loaded ({_reason(error)}); {remedy}") from error
    # Where files are not those of the class that it takes, transformers makes one with no word but the special ones.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise refused("hf", f"its tokenizer, read as {type(tokenizer).__name__}, has no vocabulary; {remedy}", folder)
    return tokenizer


def save_pretrained(net: Any, folder: Path, tokenizer: Any = None) -> None:
    """Write a network, and its tokenizer beside, as ``from_pretrained`` of their classes reads them.

    DataError is raised where that cannot be done, as on a full disk.
    """
    with _quietly(_transformers()):
        try:
            net.save_pretrained(str(folder))
            if tokenizer is not None:
                tokenizer.save_pretrained(str(folder))
        except Exception as error:  # what safetensors and tokenizers raise of a full disk is no OSError
            raise DataError(f"{folder}: cannot be written ({_reason(error)}); is the disk full?") from error
    rights = (folder / CONFIG).stat().st_mode  # safetensors gives its files to their owner alone
    for path in folder.iterdir():
        path.chmod(rights)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("Hugging Face folders need transformers: pip install 'simplicit[hf]'") from error
    return transformers


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """No progress bars and remarks of transformers meanwhile; what is printed goes to standard error."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
