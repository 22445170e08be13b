"""A network of a Hugging Face folder, and the texts that it is fitted and measured on, opened from settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.files import file_hash
from simplicit.progress import phase
from simplicit.runs.hf.folder import load_pretrained, load_tokenizer, read_config
from simplicit.runs.hf.heads import Head, Held, head_of
from simplicit.runs.hf.texts import (
    IDS,
    Tokens,
    largest_length,
    lengths_of,
    read_labels,
    read_texts,
    tokenised,
)
from simplicit.runs.settings import SAMPLES, Source, read_source, recorded_inputs
from simplicit.runs.task import Task, check_unchanged, draw, open_task, state_hash, tensor_hashes

#: One in so many texts, the last ones, is held out where there is no file for that.
HELD_OUT = 5


@dataclass(frozen=True, eq=False)
class TextTask:
    """A trained network, in evaluation mode, with texts as its inputs.

    Attributes
    ----------
    net : nn.Module
        In the dtype of its weights.
    tokenizer : object
    head : Head
        What it is measured by.
    train, test : Tokens
        Texts to be fitted and measured on; both have inputs of the same names and length.
    constants : mapping
        What else the network is called with.
    labels : (m,) array, optional
        The classes of the test texts.
    provenance : dict
        What was read, with hashes.
    """

    net: nn.Module
    tokenizer: Any
    head: Head
    train: Tokens
    test: Tokens
    constants: Mapping[str, Any]
    labels: Any
    provenance: dict[str, Any]

    def training_inputs(self, samples: int | None, seed: int) -> dict[str, Any]:
        """Different training texts, drawn at random by `seed`; 1,000, or all if there are fewer, if None."""
        available = len(self.train.mask)
        samples = min(SAMPLES, available) if samples is None else samples
        places = torch.from_numpy(draw(samples, available, seed, f"the {available} texts to be fitted on"))
        return {name: value[places] for name, value in self.train.inputs.items()} | dict(self.constants)

    def held(self, seed: int) -> Held:
        """What networks are compared on; `seed` draws the tokens that are hidden from a masked language model."""
        special = torch.isin(self.test.inputs[IDS], torch.tensor(self.tokenizer.all_special_ids, dtype=torch.int64))
        hider = self.tokenizer.mask_token_id
        return Held(self.test.inputs, self.constants, self.labels, hider, special, seed)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the texts."""
        found = []
        for tokens, what in ((self.train, "fitted"), (self.test, "measured")):
            if tokens.truncated:
                of_all = f"{tokens.truncated:,} of {len(tokens.mask):,} texts to be {what} on"
                found.append(f"{of_all} are longer than {tokens.mask.shape[1]} tokens, and cut off there")
            if tokens.unknown >= 0.01:
                share = f"{100 * tokens.unknown:.0f} % of the tokens to be {what} on"
                found.append(f"{share} are unknown to the tokenizer, which may be that of other texts")
        return found


def open_source(source: Source, *, trust_pt2: bool = False) -> Task | TextTask:
    """What `source` names: texts by :func:`open_texts`, all else by :func:`simplicit.runs.task.open_task`."""
    return open_texts(source) if source.texts is not None else open_task(source, trust_pt2=trust_pt2)


def open_texts(source: Source) -> TextTask:
    """Load the network, the tokenizer and the texts that `source` names; the errors say what does not fit."""
    assert source.hf is not None
    assert source.texts is not None
    folder, config = source.hf, read_config(source.hf)
    if config.get("is_encoder_decoder"):
        what = "an encoder-decoder takes two sequences, and texts are one; fit it from Python with simplicit.fit"
        raise refused("hf", what, folder)
    texts, others = _split(source)
    tokenizer, net = load_tokenizer(folder), load_pretrained(folder)
    length = _length(source, tokenizer, net, [*texts, *others])
    with phase("reading texts"):
        train, test = _tokens(net, tokenizer, texts, length), _tokens(net, tokenizer, others, length)
    labels = None
    if source.labels is not None:
        labels = read_labels(source.labels, len(others), {**(getattr(net.config, "label2id", None) or {})})
    head = head_of(type(net).__name__, int(getattr(net.config, "num_labels", 0)))
    constants = {"use_cache": False} if "use_cache" in inspect.signature(net.forward).parameters else {}
    return TextTask(net, tokenizer, head, train, test, constants, labels, _provenance(source, net, train, test))


def reopened_texts(run: Path, *, test_texts: Path | None = None, labels: Path | None = None) -> TextTask:
    """What a finished fit was made from, measured on other texts where they are given.

    DataError is raised where the network or the texts are no longer those of the fit.
    """
    source = read_source(run, test_texts=test_texts, labels=labels)
    task = open_texts(source)
    recorded = recorded_inputs(run)
    if test_texts is not None or labels is not None:  # others than those of the fit are meant to be
        recorded = {"network": recorded.get("network", {})}
    check_unchanged(recorded, task.provenance, run)
    return task


def _split(source: Source) -> tuple[list[str], list[str]]:
    """The texts to be fitted on, and those to be measured on."""
    assert source.texts is not None
    texts = read_texts(source.texts, "texts")
    if source.test_texts is not None:
        return texts, read_texts(source.test_texts, "test_texts")
    if len(texts) < 2:
        what = "holds one text; add others, of which one in five is held out, or name some with --test-texts"
        raise refused("texts", what, source.texts)
    count = max(1, len(texts) // HELD_OUT)
    return texts[:-count], texts[-count:]


def _length(source: Source, tokenizer: Any, net: nn.Module, texts: list[str]) -> int:
    """What was asked for, or the longest text, up to what the network takes."""
    most = largest_length(tokenizer, net)
    if source.length is not None:
        if most is not None and source.length > most:
            raise refused("length", f"the network takes at most {most} tokens, got {source.length}")
        least = tokenizer.num_special_tokens_to_add() + 1
        if source.length < least:
            raise refused("length", f"a text of one token takes {least} with those around it, got {source.length}")
        return source.length
    longest = max(2, *lengths_of(tokenizer, texts))
    return longest if most is None else min(longest, most)


def _tokens(net: nn.Module, tokenizer: Any, texts: list[str], length: int) -> Tokens:
    """Texts as the inputs that the network takes."""
    found = tokenised(tokenizer, texts, length)
    takes = inspect.signature(net.forward).parameters
    if IDS not in takes:
        raise InputError(
            f"hf: {type(net).__name__} takes no {IDS}, so that texts are no inputs of it; name its samples with --data",
            argument="hf",
        )
    table = net.get_input_embeddings()  # type: ignore[operator]
    size, largest = getattr(table, "num_embeddings", None), int(found.inputs[IDS].max())
    if size is not None and largest >= size:
        what = (
            f"its tokenizer gave token {largest}, and the network knows {size}; save the tokenizer that belongs to it"
        )
        raise refused("hf", what, net.name_or_path)
    kept = {name: value for name, value in found.inputs.items() if name in takes}
    return Tokens(kept, found.truncated, found.unknown)


def _provenance(source: Source, net: nn.Module, train: Tokens, test: Tokens) -> dict[str, Any]:
    files = {"texts": source.texts, "test_texts": source.test_texts, "labels": source.labels}
    facts = {
        "name": str(source.texts),
        "length": train.mask.shape[1],
        "train_samples": len(train.mask),
        "test_samples": len(test.mask),
        "truncated": train.truncated + test.truncated,
        "hashes": {name: file_hash(path) for name, path in files.items() if path is not None},
    }
    return {
        "network": {"architecture": type(net).__name__, "state_dict": state_hash(net), "tensors": tensor_hashes(net)},
        "data": facts,
    }
