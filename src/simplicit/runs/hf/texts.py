"""Texts from a file, one a line, as the token ids of a tokenizer, padded to one length with a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.errors import DataError

#: The names of token ids and of their mask among the inputs of a network.
IDS, MASK, KINDS = "input_ids", "attention_mask", "token_type_ids"
#: What tokenizers without a largest length have for one.
_UNBOUNDED = 10**9


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts as tokens.

    Attributes
    ----------
    inputs : mapping of str to tensor (m, T), int64
        ``input_ids``, ``attention_mask``, which is zero where a text is filled up, and ``token_type_ids`` where they
        are not all zero.
    truncated : int
        How many texts were longer than T and are cut off there.
    unknown : float
        The share of tokens that the tokenizer does not know.
    """

    inputs: Mapping[str, Tensor]
    truncated: int
    unknown: float

    @property
    def mask(self) -> Tensor:
        """(m, T), true where there is a token."""
        return self.inputs[MASK] != 0


def read_texts(path: Path, argument: str) -> list[str]:
    """The lines of a file that hold more than white space; InputError or DataError where there is none to read."""
    if path.is_dir():
        raise refused(argument, "is a folder; name a file with one text a line", path)
    if not path.is_file():
        raise refused(argument, "no such file; name one with one text a line", path)
    try:
        # Not by splitlines, which also breaks texts at form feeds and the line separators of Unicode.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 (byte {error.start}); convert it") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise refused(argument, "holds no text; write one a line", path)
    return texts


def read_labels(path: Path, count: int, names: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """A class for each of so many texts: a number, or a name that the network has for it; else InputError."""
    lines = read_texts(path, "labels")
    if len(lines) != count:
        what = f"has {len(lines):,} lines for {count:,} texts; write one class a line, for the texts in their order"
        raise refused("labels", what, path)
    found = [int(line) if line.isdecimal() else names.get(line, -1) for line in lines]
    wrong = next((place for place, label in enumerate(found) if not 0 <= label < max(len(names), 1)), None)
    if wrong is not None:
        known = f"0 to {len(names) - 1}" + (f" or {', '.join(names)}" if len(names) <= 10 else "")
        raise refused("labels", f"line {wrong + 1} is {lines[wrong]!r}; the classes of the network are {known}", path)
    return np.array(found, dtype=np.int64)


def largest_length(tokenizer: Any, net: nn.Module) -> int | None:
    """How many tokens a text may have at most, as tokenizer and network say it; None where neither does.

    Networks like RoBERTa number their positions from behind that of the padding.
    """
    tables = [one for name, one in net.named_modules() if name.split(".")[-1] == "position_embeddings"]
    behind = max((1 + one.padding_idx for one in tables if getattr(one, "padding_idx", None) is not None), default=0)
    positions = getattr(net.config, "max_position_embeddings", None)
    known = (tokenizer.model_max_length, positions - behind if isinstance(positions, int) else None)
    limits = [limit for limit in known if isinstance(limit, int) and 0 < limit < _UNBOUNDED]
    return min(limits, default=None)


def lengths_of(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has."""
    return [len(ids) for ids in tokenizer(list(texts), verbose=False)[IDS]]


def tokenised(tokenizer: Any, texts: Sequence[str], length: int) -> Tokens:
    """Texts as ``length`` tokens each: cut off, or filled up on the right.

    Where the tokenizer has no token for that, it does not matter which is taken, for the mask leaves it out.
    """
    found = tokenizer(list(texts), truncation=True, max_length=length, verbose=False)
    fill = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    ids, mask = _filled(found[IDS], length, fill), _filled([[1] * len(one) for one in found[IDS]], length, 0)
    inputs = {IDS: ids, MASK: mask}
    if KINDS in found and any(map(any, found[KINDS])):
        inputs[KINDS] = _filled(found[KINDS], length, 0)
    unknown = tokenizer.unk_token_id
    share = 0.0 if unknown is None else float(((ids == unknown) & (mask != 0)).sum() / mask.sum().clamp(min=1))
    return Tokens(inputs, sum(size > length for size in lengths_of(tokenizer, texts)), share)


def _filled(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.int64)
