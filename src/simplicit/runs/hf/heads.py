r"""What two networks are compared by on the same texts, as their head suggests: one class and one line each.

The first is the dense network, the second the one that was made of it. Of logits the *agreement* is the share of
samples, or of tokens, at which both have the same largest one. A language model has its *perplexity*,
exp of the mean over tokens of −log p(token), p the softmax of the logits: for a causal one of each token given those
before it; for a masked one of tokens that were hidden, the others in sight (a *pseudo-perplexity*, of a share
:data:`HIDDEN` of the tokens, drawn by the seed, all hidden at once). Networks without a head have *embeddings*, the
means of their last hidden states over the tokens of a text, compared by their cosine, by whether a text keeps its
nearest neighbour, and by the correlation of all cosines between two different texts before and after.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simplicit.network.outputs import chosen
from simplicit.progress import phase
from simplicit.runs.hf.texts import IDS, MASK

#: The share of tokens that are hidden from a masked language model.
HIDDEN = 0.15
#: Numbers of outputs at a time.
_NUMBERS = 2**23
_BATCH = 64


@dataclass(frozen=True)
class Measure:
    """How a figure is shown: its label, and whether it is a share, which tables have in per cent."""

    label: str
    share: bool = False


#: All figures by name; with ``baseline_`` before it, it is that of the dense network.
MEASURES = {
    "agreement": Measure("agreement with the baseline", share=True),
    "accuracy": Measure("accuracy", share=True),
    "perplexity": Measure("perplexity"),
    "pseudo_perplexity": Measure("pseudo-perplexity of hidden tokens"),
    "found": Measure("hidden tokens that are found", share=True),
    "cosine": Measure("cosine to the baseline's, mean"),
    "lowest_cosine": Measure("cosine to the baseline's, lowest"),
    "same_neighbour": Measure("same nearest neighbour", share=True),
    "similarity_correlation": Measure("correlation of similarities"),
}


@dataclass(frozen=True, eq=False)
class Held:
    """What two networks are compared on.

    Attributes
    ----------
    inputs : mapping of str to tensor (m, ...)
    constants : mapping
        What else the networks are called with.
    labels : (m,) array, optional
        The classes of the texts.
    hider : int, optional
        The token that hides another one.
    special : (m, T) bool tensor, optional
        Where tokens are none of the text and are not hidden.
    seed : int
    """

    inputs: Mapping[str, Tensor]
    constants: Mapping[str, Any]
    labels: npt.NDArray[np.int64] | None = None
    hider: int | None = None
    special: Tensor | None = None
    seed: int = 0

    @property
    def mask(self) -> Tensor:
        return self.inputs[MASK] != 0


@dataclass(frozen=True, eq=False)
class Both:
    """A dense network and the one that was made of it, as they are evaluated; ``output`` is one of both."""

    dense: nn.Module
    sparse: nn.Module
    output: str | None = None

    def outputs(self, held: Held, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """The outputs of both, some samples at a time, in float32 if they are narrower, and which samples they are."""
        start, batch, count = 0, 2, len(held.mask)
        with phase("measuring both networks on texts", count) as texts:
            while start < count:
                rows = slice(start, min(start + batch, count))
                part = {name: value[rows] for name, value in inputs.items()} | dict(held.constants)
                first, second = (self._output(net, part) for net in (self.dense, self.sparse))
                yield first, second, rows
                texts.count(rows.stop - start)
                start, batch = rows.stop, max(1, min(_BATCH, _NUMBERS // max(1, first[0].numel())))

    def _output(self, net: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            returned = net(**inputs)
        return chosen(returned, self.output, len(inputs[IDS])).of(returned)


class Head(ABC):
    """How networks of one kind are compared; ``title`` is what they are, ``main`` the first of the figures."""

    title: ClassVar[str]
    main: ClassVar[str] = "agreement"

    @abstractmethod
    def measure(self, both: Both, held: Held) -> dict[str, float]:
        """The figures, by the names of :data:`MEASURES`."""


class Classes(Head):
    """Logits (m, classes)."""

    title = "classes of texts"

    def measure(self, both: Both, held: Held) -> dict[str, float]:
        pairs = [(a.argmax(-1), b.argmax(-1)) for a, b, _ in both.outputs(held, held.inputs)]
        dense, sparse = (torch.cat(part).numpy() for part in zip(*pairs, strict=True))
        found = {"agreement": _mean(dense == sparse)}
        if held.labels is not None:
            found |= {"accuracy": _mean(sparse == held.labels), "baseline_accuracy": _mean(dense == held.labels)}
        return found


class TokenClasses(Head):
    """Logits (m, T, classes)."""

    title = "classes of tokens"

    def measure(self, both: Both, held: Held) -> dict[str, float]:
        return {"agreement": _agreement(both, held)}


class NextTokens(Head):
    """Logits (m, T, vocabulary), each of the token that follows."""

    title = "next tokens"

    def measure(self, both: Both, held: Held) -> dict[str, float]:
        counted = held.mask[:, 1:] & held.mask[:, :-1]
        same, losses = 0, np.zeros(2)
        for dense, sparse, rows in both.outputs(held, held.inputs):
            where, tokens = counted[rows], held.inputs[IDS][rows, 1:]
            a, b = (one[:, :-1][where] for one in (dense, sparse))
            same += int((a.argmax(-1) == b.argmax(-1)).sum())
            losses += [_loss(one, tokens[where]) for one in (a, b)]
        count = max(1, int(counted.sum()))
        dense_, sparse_ = (_exponential(loss / count) for loss in losses)
        return {"perplexity": sparse_, "baseline_perplexity": dense_, "agreement": same / count}


class MaskedTokens(Head):
    """Logits (m, T, vocabulary), each of the token at its place."""

    title = "masked tokens"

    def measure(self, both: Both, held: Held) -> dict[str, float]:
        found = {"agreement": _agreement(both, held)}
        hidden = _hidden(held)
        if held.hider is None or not bool(hidden.any()):
            return found
        ids = torch.where(hidden, held.hider, held.inputs[IDS])
        losses, right = np.zeros(2), np.zeros(2)
        for dense, sparse, rows in both.outputs(held, {**held.inputs, IDS: ids}):
            where, tokens = hidden[rows], held.inputs[IDS][rows][hidden[rows]]
            logits = [one[where] for one in (dense, sparse)]
            losses += [_loss(one, tokens) for one in logits]
            right += [int((one.argmax(-1) == tokens).sum()) for one in logits]
        count = int(hidden.sum())
        losses, right = losses / count, right / count
        found |= {"pseudo_perplexity": _exponential(losses[1]), "baseline_pseudo_perplexity": _exponential(losses[0])}
        return found | {"found": float(right[1]), "baseline_found": float(right[0])}


class Embeddings(Head):
    """Hidden states (m, T, d), of which a text has the mean over its tokens; other outputs as they are."""

    title = "embeddings"
    main = "cosine"

    def measure(self, both: Both, held: Held) -> dict[str, float]:
        parts: list[tuple[Tensor, Tensor]] = []
        for dense, sparse, rows in both.outputs(held, held.inputs):
            parts.append((_pooled(dense, held.mask[rows]), _pooled(sparse, held.mask[rows])))
        a, b = (torch.nn.functional.normalize(torch.cat(part).double(), dim=1) for part in zip(*parts, strict=True))
        cosines = (a * b).sum(1)
        found = {"cosine": float(cosines.mean()), "lowest_cosine": float(cosines.min())}
        m = len(a)
        if m < 3:
            return found
        before, after = a @ a.T, b @ b.T
        apart = ~torch.eye(m, dtype=torch.bool)
        nearest = [one.masked_fill(~apart, -math.inf).argmax(1) for one in (before, after)]
        upper = torch.triu(apart)
        both_ways = torch.corrcoef(torch.stack([before[upper], after[upper]]))
        found["same_neighbour"] = float((nearest[0] == nearest[1]).double().mean())
        return found | {"similarity_correlation": float(both_ways[0, 1].nan_to_num(1.0))}


#: The heads by how the name of an architecture ends.
HEADS: dict[str, Head] = {
    "ForSequenceClassification": Classes(),
    "ForTokenClassification": TokenClasses(),
    "ForMaskedLM": MaskedTokens(),
    "ForCausalLM": NextTokens(),
    "LMHeadModel": NextTokens(),
}


def head_of(architecture: str, classes: int) -> Head:
    """The head of an architecture, by its name; one number for each text is no class but an embedding."""
    head = next((head for end, head in HEADS.items() if architecture.endswith(end)), Embeddings())
    return Embeddings() if isinstance(head, Classes) and classes < 2 else head


def _agreement(both: Both, held: Held) -> float:
    same = sum(
        int((dense.argmax(-1) == sparse.argmax(-1))[held.mask[rows]].sum())
        for dense, sparse, rows in both.outputs(held, held.inputs)
    )
    return same / max(1, int(held.mask.sum()))


def _hidden(held: Held) -> Tensor:
    """Which tokens are hidden, the same for both networks."""
    free = held.mask if held.special is None else held.mask & ~held.special
    draws = torch.rand(free.shape, generator=torch.Generator().manual_seed(held.seed))
    return free & (draws < HIDDEN)


def _pooled(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens of hidden states (m, T, d), laid flat where they have another form."""
    if states.ndim != 3 or states.shape[1] != mask.shape[1]:
        return states.flatten(1) if states.ndim > 1 else states.unsqueeze(1)
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _loss(logits: Tensor, tokens: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double(), tokens, reduction="sum"))


def _exponential(loss: float) -> float:
    """exp, and infinity where that is beyond a float."""
    return math.exp(loss) if loss < 700 else math.inf


def _mean(hits: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(hits))
