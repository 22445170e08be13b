"""Texts become token ids of one length, and their labels classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simplicit.errors import DataError, InputError
from simplicit.runs.hf.texts import largest_length, lengths_of, read_labels, read_texts, tokenised


class Letters:
    """A tokenizer with a token for each letter, between 1 and 2; 9 stands for those that it does not know."""

    pad_token_id, eos_token_id, unk_token_id = None, 2, 9
    model_max_length = int(1e30)

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_: Any) -> dict[str, list[list[int]]]:
        ids = [[9 if letter == "?" else ord(letter) for letter in text] for text in texts]
        cut = [one if max_length is None else one[: max_length - 2] for one in ids]
        return {"input_ids": [[1, *one, 2] for one in cut], "token_type_ids": [[0] * (len(one) + 2) for one in cut]}


def test_texts_are_filled_up_and_cut_off() -> None:
    assert lengths_of(Letters(), ["abc", "a"]) == [5, 3]
    found = tokenised(Letters(), ["abc", "a", "?bcd"], 5)
    ids = [[1, 97, 98, 99, 2], [1, 97, 2, 2, 2], [1, 9, 98, 99, 2]]
    assert found.inputs.keys() == {"input_ids", "attention_mask"}
    assert found.inputs["input_ids"].tolist() == ids
    assert found.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2, [True] * 5]
    assert (found.truncated, found.unknown) == (1, pytest.approx(1 / 13))
    assert found.inputs["input_ids"].dtype == torch.int64


def network(**config: int) -> nn.Module:
    """A network with a configuration."""
    net = nn.Module()
    net.config = SimpleNamespace(**config)  # type: ignore[assignment]
    return net


def test_the_largest_length_is_the_smallest_that_is_known() -> None:
    assert largest_length(Letters(), network()) is None
    assert largest_length(Letters(), network(max_position_embeddings=24)) == 24
    short = SimpleNamespace(model_max_length=16)
    assert largest_length(short, network(max_position_embeddings=24)) == 16
    like_roberta = network(max_position_embeddings=24)
    like_roberta.position_embeddings = nn.Embedding(24, 2, padding_idx=1)
    assert largest_length(Letters(), like_roberta) == 22


def test_files_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    with pytest.raises(InputError, match=r"texts .*: is a folder; name a file"):
        read_texts(tmp_path, "texts")
    with pytest.raises(InputError, match=r"texts .*: no such file"):
        read_texts(path, "texts")
    path.write_text("\n  \n")
    with pytest.raises(InputError, match=r"test_texts .*: holds no text"):
        read_texts(path, "test_texts")
    path.write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match="is no text in UTF-8 \\(byte 5\\)"):
        read_texts(path, "texts")
    path.write_text("\ufeffone\r\n\n two \n")
    assert read_texts(path, "texts") == ["one", "two"]
    path.write_bytes("one\u2028text\r\n\r\nstill\x0cone\x85".encode())
    assert read_texts(path, "texts") == ["one\u2028text", "still\x0cone"]


def test_labels_are_numbers_or_names(tmp_path: Path) -> None:
    path, names = tmp_path / "labels.txt", {"good": 0, "bad": 1}
    path.write_text("1\ngood\nbad\n")
    np.testing.assert_array_equal(read_labels(path, 3, names), [1, 0, 1])
    with pytest.raises(InputError, match="has 3 lines for 4 texts"):
        read_labels(path, 4, names)
    for wrong in ("2", "ugly", "-1"):
        path.write_text(f"1\n{wrong}\n")
        with pytest.raises(
            InputError, match=f"line 2 is '{wrong}'; the classes of the network are 0 to 1 or good, bad"
        ):
            read_labels(path, 2, names)
