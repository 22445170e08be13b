"""The family transformers: small random configurations of encoders, decoders, both, and of vision and audio."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn

from networks.entry import SAMPLES, Inputs, Maker, enlivened

PACKAGES = ("transformers",)

WORDS, LENGTH = 60, 9
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
_EXPERTS = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def _network(kind: str, configuration: dict[str, Any]) -> nn.Module:
    import transformers

    model = getattr(transformers, kind)
    config = model.config_class(**configuration)
    net: nn.Module = model(config)
    return enlivened(net)


def _padded() -> dict[str, Any]:
    """Token ids, of which the last ones of some samples are padding."""
    lengths = torch.randint(4, LENGTH + 1, (SAMPLES, 1))
    mask = (torch.arange(LENGTH) < lengths).long()
    return {"input_ids": torch.randint(3, WORDS, (SAMPLES, LENGTH)) * mask, "attention_mask": mask}


def _text(kind: str, configuration: dict[str, Any], **constants: Any) -> tuple[nn.Module, Inputs]:
    return _network(kind, configuration), _padded() | constants


def _mixtral(experts: str) -> tuple[nn.Module, Inputs]:
    """Mixtral with another way to compute its experts than sorting all tokens of a batch by them."""
    net, inputs = _text("MixtralForCausalLM", _EXPERTS, use_cache=False)
    cast(Any, net).config._experts_implementation = experts
    return net, inputs


def _both(kind: str, configuration: dict[str, Any]) -> tuple[nn.Module, Inputs]:
    targets = torch.randint(3, WORDS, (SAMPLES, 5))
    return _network(kind, configuration), _padded() | {"decoder_input_ids": targets, "use_cache": False}


def _pixels(kind: str, configuration: dict[str, Any], side: int = 32) -> tuple[nn.Module, Inputs]:
    return _network(kind, configuration), torch.randn(SAMPLES, 3, side, side)


def _sound(kind: str, configuration: dict[str, Any], *shape: int) -> tuple[nn.Module, Inputs]:
    return _network(kind, configuration), torch.randn(SAMPLES, *shape)


def encoder(kind: str, **options: Any) -> Maker:
    """An encoder of text."""
    return partial(_text, kind, TEXT | options)


def decoder(kind: str, configuration: dict[str, Any], **options: Any) -> Maker:
    """A decoder, which says the next token."""
    return partial(_text, kind, configuration | options, use_cache=False)


_DISTIL = {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32}
_GPT2: dict[str, Any] = {
    "vocab_size": WORDS,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "bos_token_id": 1,
}
_GPT2 |= {"eos_token_id": 2}
_BLOOM = {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_OPT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
}
_OPT |= {"max_position_embeddings": 32, "word_embed_proj_dim": 32, "pad_token_id": 0}
_NEO: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 32,
}
_NEO |= {"attention_types": [[["global", "local"], 1]], "window_size": 4, "bos_token_id": 1, "eos_token_id": 2}
_T5: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
}
_T5 |= {"decoder_start_token_id": 0}
_BART: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
}
_BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32}
_BART |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_WAVE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_WAVE |= {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3}
_WAVE |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 12}
_WHISPER = _BART | {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 16}
_SPECTRUM = IMAGE | {"num_mel_bins": 16, "max_length": 32}

TEXTS: dict[str, Maker] = {
    "bert": encoder("BertForSequenceClassification"),
    "bert-model": encoder("BertModel"),
    "roberta": encoder("RobertaForSequenceClassification", pad_token_id=0, max_position_embeddings=40),
    "distilbert": partial(_text, "DistilBertForMaskedLM", _DISTIL),
    "albert": encoder("AlbertForMaskedLM", embedding_size=16),
    "electra": encoder("ElectraForPreTraining", embedding_size=16),
    "deberta-v2": encoder(
        "DebertaV2Model", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, type_vocab_size=0
    ),
    "mpnet": encoder("MPNetModel", pad_token_id=1),
    "modernbert": encoder("ModernBertModel", local_attention=4, cls_token_id=1, sep_token_id=2),
    "gpt2": decoder("GPT2LMHeadModel", _GPT2),
    "gpt2-classifier": decoder("GPT2Model", _GPT2, activation_function="relu"),
    "llama": decoder("LlamaForCausalLM", GROUPED),
    "qwen2": decoder("Qwen2ForCausalLM", GROUPED),
    "qwen3": decoder("Qwen3ForCausalLM", GROUPED, head_dim=8),
    "mistral": decoder("MistralForCausalLM", GROUPED, sliding_window=4),
    "gpt-neox": decoder("GPTNeoXForCausalLM", TEXT),
    "gpt-neo": decoder("GPTNeoForCausalLM", _NEO),
    "opt": decoder("OPTForCausalLM", _OPT),
    "bloom": decoder("BloomForCausalLM", _BLOOM),
    "gemma": decoder("GemmaForCausalLM", GROUPED, head_dim=8),
    # In float64 Gemma2 says NaN where a window holds nothing but padding: it must be wider than that.
    "gemma2": decoder("Gemma2ForCausalLM", GROUPED, head_dim=8, sliding_window=7),
    "phi": decoder("PhiForCausalLM", TEXT),
    "mixtral": decoder("MixtralForCausalLM", _EXPERTS),
    "mixtral-batched": partial(_mixtral, "batched_mm"),
    "t5": partial(_both, "T5ForConditionalGeneration", _T5),
    "t5-encoder": partial(_text, "T5EncoderModel", _T5),
    "bart": partial(_both, "BartForConditionalGeneration", _BART),
    "mbart": partial(_both, "MBartForConditionalGeneration", _BART),
    "marian": partial(_both, "MarianMTModel", _BART),
}

OTHERS: dict[str, Maker] = {
    "vit": partial(_pixels, "ViTForImageClassification", IMAGE),
    "deit": partial(_pixels, "DeiTModel", IMAGE),
    "beit": partial(_pixels, "BeitModel", IMAGE),
    "dinov2": partial(_pixels, "Dinov2Model", IMAGE),
    "swin": partial(
        _pixels,
        "SwinModel",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "convnext": partial(
        _pixels, "ConvNextForImageClassification", {"hidden_sizes": [8, 12, 16, 24], "depths": [1] * 4}
    ),
    "resnet": partial(
        _pixels,
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1] * 4},
    ),
    "segformer": partial(
        _pixels,
        "SegformerForImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4]},
    ),
    "clip-vision": partial(_pixels, "CLIPVisionModel", IMAGE),
    "clip-text": partial(_text, "CLIPTextModel", TEXT),
    "siglip-vision": partial(_pixels, "SiglipVisionModel", IMAGE),
    "wav2vec2": partial(_sound, "Wav2Vec2Model", _WAVE, 400),
    "hubert": partial(_sound, "HubertModel", _WAVE, 400),
    "audio-spectrogram": partial(_sound, "ASTModel", _SPECTRUM, 32, 16),
    "whisper-encoder": lambda: _whisper(),
}


def _whisper() -> tuple[nn.Module, Inputs]:
    net, inputs = _sound("WhisperModel", _WHISPER, 16, 40)
    return net.get_submodule("encoder"), inputs


ENTRIES: dict[str, Maker] = TEXTS | OTHERS


def prepare() -> None:
    """Import what all of them need, once."""
    _network("BertModel", TEXT)
