"""What a Hugging Face folder must have, as far as it is told without ``transformers``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError

from pretrained import claimed
from simplicit.errors import DataError, InputError, MissingExtraError
from simplicit.runs.hf.folder import load_pretrained, load_tokenizer, read_config, save_pretrained

BERT = {"architectures": ["BertModel"]}


@pytest.mark.parametrize(
    ("files", "config", "told"),
    [
        ((), BERT, "has no weights; save it with net.save_pretrained"),
        (
            ("pytorch_model.bin", "training_args.bin"),
            BERT,
            r"as a pickle, pytorch_model\.bin, which could run code",
        ),
        (("model.safetensors",), {}, r'names no architecture; write the class.*"architectures": \["BertModel"\]'),
        (("model.safetensors",), {"architectures": "BertModel"}, "names no architecture"),
        (("model.safetensors",), BERT | {"quantization_config": {"bits": 4}}, "quantised weights.*save it dequantised"),
    ],
)
def test_a_folder_that_is_refused(tmp_path: Path, files: tuple[str, ...], config: dict[str, Any], told: str) -> None:
    folder = claimed(tmp_path / "net", files, **config)
    with pytest.raises((InputError, DataError), match=told):
        read_config(folder)


def test_no_folder_and_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; name one that save_pretrained wrote"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no config\.json; name a folder that save_pretrained wrote"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json"):
        read_config(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "net", ("model.safetensors", "tokenizer_config.json"), **BERT)
    with pytest.raises(InputError, match=r"has no tokenizer; save it there, tokenizer\.save_pretrained"):
        load_tokenizer(folder)


def test_transformers_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = claimed(tmp_path / "net", ("model.safetensors", "tokenizer.json"), **BERT)
    for load in (load_pretrained, load_tokenizer):
        with pytest.raises(MissingExtraError, match=r"need transformers: pip install 'simplicit\[hf\]'"):
            load(folder)


def test_a_disk_that_is_full_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors says so by an error of its own, which is no OSError."""

    class Full:
        def save_pretrained(self, folder: str) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setitem(sys.modules, "transformers", quiet_transformers())
    with pytest.raises(DataError, match=r"net: cannot be written \(SafetensorError: .*No space left.*is the disk full"):
        save_pretrained(Full(), tmp_path / "net")


def quiet_transformers() -> Any:
    """What is taken of transformers to be quiet."""
    calls = ("get_verbosity", "is_progress_bar_enabled", "set_verbosity_error", "disable_progress_bar", "set_verbosity")
    logging = SimpleNamespace(**dict.fromkeys(calls, lambda *_: False))
    return SimpleNamespace(utils=SimpleNamespace(logging=logging))
