"""Small random networks in folders as Hugging Face's transformers writes them, with a tokenizer of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["SENTENCES", "WORDS", "claimed", "folder_of", "sentences"]

WORDS = ["the", "a", "cat", "dog", "bird", "sees", "likes", "hears", "old", "small", "red", "tree", "house", "and"]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
#: Of every tiny network.
_SIZES: dict[str, Any] = {
    "vocab_size": len(_SPECIAL) + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
}


def sentences(count: int) -> list[str]:
    """Different sentences of some words, of 3 to 9 of them."""
    draw = torch.Generator().manual_seed(0)
    found: dict[str, None] = {}
    while len(found) < count:
        length = int(torch.randint(3, 10, (), generator=draw))
        places = torch.randint(len(WORDS), (length,), generator=draw)
        found[" ".join(WORDS[place] for place in places)] = None
    return [*found]


SENTENCES = sentences(60)


def folder_of(kind: str, folder: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Write a random network of a class, and a tokenizer of whole words, into a folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    model = getattr(transformers, kind)
    net = model(model.config_class(**(_SIZES | options))).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
            else:  # scales of norms are about 1
                parameter.normal_(std=0.1).add_(float(name.endswith("weight")))
    net.to(dtype).save_pretrained(folder)
    ids = {word: place for place, word in enumerate([*_SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def claimed(folder: Path, files: Sequence[str] = (), **config: Any) -> Path:
    """A folder that holds a configuration and empty files alone."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"")
    return folder
