"""The family timm: the smallest variant of as many architectures as it has, random weights, small images."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import nn

from networks.entry import SAMPLES, Inputs, Maker, enlivened, stub_torchvision

PACKAGES = ("timm",)

#: Networks that take any image, with the side of theirs.
ANY_SIZE = {
    "convmixer_768_32": 64,
    "convnext_atto": 64,
    "cspdarknet53": 64,
    "davit_tiny": 64,
    "densenet121": 64,
    "dla46x_c": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientnet_b0": 64,
    "efficientvit_b0": 64,
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "focalnet_tiny_srf": 64,
    "ghostnet_050": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "inception_next_atto": 64,
    "inception_v3": 96,
    "inception_resnet_v2": 96,
    "lcnet_050": 64,
    "legacy_seresnet18": 64,
    "mambaout_femto": 64,
    "mobilenetv3_small_050": 64,
    "mobileone_s0": 64,
    "mobilevit_xxs": 64,
    "nfnet_l0": 64,
    "poolformer_s12": 64,
    "pvt_v2_b0": 64,
    "rdnet_tiny": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "repvit_m0_9": 64,
    "res2net50_26w_4s": 64,
    "resnest14d": 64,
    "resnet18": 64,
    "resnetv2_18": 64,
    "rexnet_100": 64,
    "selecsls42": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "starnet_s050": 64,
    "swiftformer_xs": 224,
    "vgg11_bn": 64,
    "ese_vovnet19b_slim_dw": 64,
}

#: Networks that are made for a size.
MADE_FOR = {
    "bat_resnext26ts": 256,
    "beit_base_patch16_224": 64,
    "cait_xxs24_224": 64,
    "coat_lite_tiny": 64,
    "convit_tiny": 64,
    "deit_tiny_patch16_224": 64,
    "efficientformerv2_s0": 224,
    "eva02_tiny_patch14_224": 56,
    "gcvit_xxtiny": 224,
    "gmlp_s16_224": 64,
    "hiera_tiny_224": 224,
    "levit_128s": 224,
    "maxvit_rmlp_pico_rw_256": 256,
    "mvitv2_tiny": 64,
    "nest_tiny": 224,
    "pit_ti_224": 64,
    "resmlp_12_224": 64,
    "sequencer2d_s": 224,
    "swin_tiny_patch4_window7_224": 224,
    "tiny_vit_5m_224": 224,
    "vit_tiny_patch16_224": 64,
    "volo_d1_224": 64,
    "xcit_nano_12_p16_224": 64,
}


def _timm() -> Any:
    stub_torchvision()
    return importlib.import_module("timm")


def _made(name: str, side: int, **options: int) -> tuple[nn.Module, Inputs]:
    timm = _timm()
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=10, **options)
    return enlivened(net), torch.randn(SAMPLES, 3, side, side)


#: A size is given to a network that is made for another one than its own.
_OWN_SIZE = (224, 240, 256)


def _entry(name: str, side: int) -> Maker:
    if name in ANY_SIZE or side in _OWN_SIZE:
        return partial(_made, name, side)
    return partial(_made, name, side, img_size=side)


ENTRIES: dict[str, Maker] = {name: _entry(name, side) for name, side in (ANY_SIZE | MADE_FOR).items()}


def prepare() -> None:
    """Import timm once, for all."""
    _timm()
