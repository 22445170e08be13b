"""What two networks are compared by, against the same figures written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simplicit.runs.hf.heads import HEADS, HIDDEN, Both, Embeddings, Held, head_of

M, T, WORDS = 70, 6, 11


class Table(nn.Module):
    """A vector for each token, in a mapping as transformers returns them; all tokens of a text, or its first."""

    def __init__(self, width: int, *, first: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(WORDS, width), first
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(seed))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, scale: float) -> dict[str, Tensor]:
        found = self.table(input_ids) * scale
        return {"logits": found[:, 0] if self.first else found}


def held(**options: Any) -> Held:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, WORDS, (M, T), generator=draw)
    mask = (torch.arange(T) < torch.randint(2, T + 1, (M, 1), generator=draw)).long()
    return Held({"input_ids": ids * mask, "attention_mask": mask}, {"scale": 2.0}, **options)


def logits(net: Table, ids: Tensor) -> Tensor:
    return 2 * net.table.weight.detach()[ids]


def loss(net: Table, ids: Tensor, tokens: Tensor) -> float:
    return float(-torch.log_softmax(logits(net, ids).double(), -1)[torch.arange(len(tokens)), tokens].mean())


def test_classes() -> None:
    dense, sparse = Table(4, first=True), Table(4, first=True, seed=3)
    data = held()
    a, b = (logits(net, data.inputs["input_ids"][:, 0]).argmax(-1).numpy() for net in (dense, sparse))
    head = HEADS["ForSequenceClassification"]
    assert head.measure(Both(dense, sparse), data) == {"agreement": pytest.approx(np.mean(a == b))}
    found = head.measure(Both(dense, sparse), held(labels=a))
    assert (found["baseline_accuracy"], found["accuracy"]) == (1.0, pytest.approx(np.mean(a == b)))


def test_next_tokens() -> None:
    dense, sparse, data = Table(WORDS), Table(WORDS, seed=3), held()
    ids, mask = data.inputs["input_ids"], data.mask
    counted = mask[:, 1:]
    before, after = ids[:, :-1][counted], ids[:, 1:][counted]
    found = HEADS["LMHeadModel"].measure(Both(dense, sparse), data)
    assert found["perplexity"] == pytest.approx(math.exp(loss(sparse, before, after)))
    assert found["baseline_perplexity"] == pytest.approx(math.exp(loss(dense, before, after)))
    same = logits(dense, before).argmax(-1) == logits(sparse, before).argmax(-1)
    assert found["agreement"] == pytest.approx(float(same.double().mean()))


def test_masked_tokens() -> None:
    dense, sparse = Table(WORDS), Table(WORDS, seed=3)
    data = held(hider=0, seed=5)
    special = data.inputs["input_ids"] == 1
    data = held(hider=0, seed=5, special=special)
    hidden = (torch.rand((M, T), generator=torch.Generator().manual_seed(5)) < HIDDEN) & data.mask & ~special
    tokens = data.inputs["input_ids"][hidden]
    found = HEADS["ForMaskedLM"].measure(Both(dense, sparse), data)
    assert found["pseudo_perplexity"] == pytest.approx(math.exp(loss(sparse, 0 * tokens, tokens)))
    best = int(logits(dense, torch.tensor(0)).argmax())
    assert found["baseline_found"] == pytest.approx(float((tokens == best).double().mean()))
    ids = data.inputs["input_ids"][data.mask]
    same = logits(dense, ids).argmax(-1) == logits(sparse, ids).argmax(-1)
    assert found["agreement"] == pytest.approx(float(same.double().mean()))
    assert HEADS["ForMaskedLM"].measure(Both(dense, sparse), held()).keys() == {"agreement"}  # no token hides another


def test_embeddings_are_means_over_the_tokens() -> None:
    dense, sparse, data = Table(5), Table(5, seed=3), held()
    embedded = []
    for net in (dense, sparse):
        rows = [logits(net, ids[kept]).mean(0) for ids, kept in zip(data.inputs["input_ids"], data.mask, strict=True)]
        embedded.append(nn.functional.normalize(torch.stack(rows).double(), dim=1).numpy())
    a, b = embedded
    found = Embeddings().measure(Both(dense, sparse), data)
    assert found["cosine"] == pytest.approx((a * b).sum(1).mean(), abs=1e-6)
    assert found["lowest_cosine"] == pytest.approx((a * b).sum(1).min(), abs=1e-6)
    upper = np.triu_indices(M, 1)
    expected = np.corrcoef((a @ a.T)[upper], (b @ b.T)[upper])[0, 1]
    assert found["similarity_correlation"] == pytest.approx(expected, abs=1e-6)
    nearest = [(one @ one.T - 2 * np.eye(M)).argmax(1) for one in (a, b)]
    assert found["same_neighbour"] == pytest.approx(np.mean(nearest[0] == nearest[1]))
    same = Embeddings().measure(Both(dense, dense), data)
    assert min(same.values()) == pytest.approx(1.0)


def test_heads_by_the_name_of_the_architecture() -> None:
    assert head_of("AlbertForMaskedLM", 0).title == "masked tokens"
    assert head_of("GPT2LMHeadModel", 2).title == "next tokens"
    assert head_of("BertModel", 2).title == "embeddings"
    assert head_of("BertForSequenceClassification", 3).title == "classes of texts"
    assert head_of("BertForSequenceClassification", 1).title == "embeddings"
