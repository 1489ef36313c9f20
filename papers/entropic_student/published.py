"""The published encoder, decoder and codec on the meta device, and what the published curves say of bytes and time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from papers.entropic_student.method import decoder, encoder
from repro.evaluation.rate_distortion import Point, bd_rate
from repro.models.entropy import FactorisedPrior
from repro.models.gdn import GDN1
from repro.profiling.counts import count_flops
from repro.profiling.split_latency import Split, wins_between

CHANNELS, FEATURES, SIZE = 24, 256, 224
#: (bytes an image, top-1 percent), read off the benchmark's figure of the same methods, to about 3 %.
CURVES: dict[str, list[Point]] = {
    "student": [(680, 59.9), (1320, 68.0), (2260, 72.0), (3700, 74.0), (5300, 74.7), (8000, 75.3), (11700, 75.7)],
    "bpg": [(1740, 59.4), (3300, 67.8), (5900, 72.4), (14500, 75.7)],
    "jpeg": [(2800, 47.7), (5100, 67.8), (9000, 72.8)],
    "crbq": [(4200, 60.9), (7800, 72.1), (11400, 74.1)],
    "end": [(3300, 62.9), (16000, 66.1)],
}
#: Work of a device that the latency arithmetic assumes, in FLOP/s; image codecs are given no time at all.
DEVICE = 10e9


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def image_codec_encoder(width: int = 128) -> nn.Sequential:
    """The encoder of the factorised-prior image codec that the paper compares with: four strided convolutions with
    biases and three GDN between them."""
    layers: list[nn.Module] = []
    for place in range(4):
        layers.append(nn.Conv2d(3 if place == 0 else width, width, 5, 2, 2))
        layers += [GDN1(width)] if place < 3 else []
    return nn.Sequential(*layers)


def macs(call: Callable[[], object]) -> float:
    """Multiply-accumulates of convolutions and matrix products."""
    with torch.no_grad():
        return count_flops(call) / 2


def seen_by_each(layers: nn.Sequential, x: Tensor) -> list[float]:
    """MACs of each layer."""
    out = []
    for layer in layers:
        out.append(macs(lambda layer=layer, x=x: layer(x)))  # type: ignore[misc]
        x = layer(x)
    return out


def doublings(of: str, against: str) -> float:
    """How often the published bytes of ``against`` have to be halved to be those of ``of``: mean over the accuracies
    that both reach."""
    return -math.log2(1 + bd_rate(CURVES[against], CURVES[of]) / 100)


def bytes_at(name: str, accuracy: float) -> float:
    """Published bytes for an accuracy, interpolated in log bytes."""
    sizes, found = zip(*CURVES[name], strict=True)
    return float(np.exp(np.interp(accuracy, found, np.log(sizes))))


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and what the published curves imply."""
    from transformers import ResNetConfig, ResNetForImageClassification

    out: dict[str, float] = {}
    shape = ResNetConfig()
    shape.num_labels = 1000
    with torch.device("meta"):
        front, back, prior = encoder(3, CHANNELS), decoder(CHANNELS, FEATURES), FactorisedPrior(CHANNELS)
        codec = image_codec_encoder()
        resnet = ResNetForImageClassification(shape).eval()
        image = torch.empty(1, 3, SIZE, SIZE)
        latent = front(image)
        out["latent_symbols"] = latent.numel()
        out["decoder_side"] = back(latent).shape[-1]
        by_layer = seen_by_each(front, image)
        out["encoder_macs"] = sum(by_layer)
        out["encoder_convolution_macs"] = sum(by_layer[::2])
        out["resnet50_macs"] = macs(lambda: resnet(image))
    out["encoder_parameters"] = parameters(front)
    # three quantiles a channel are saved too where medians and tables are searched by gradient
    out["prior_parameters"] = parameters(prior) + 3 * CHANNELS
    out["encoder_kib"] = (out["encoder_parameters"] + out["prior_parameters"]) * 4 / 1024
    out["decoder_parameters"] = parameters(back)
    out["codec_encoder_parameters"] = parameters(codec)
    out["codec_over_encoder"] = out["codec_encoder_parameters"] / out["encoder_parameters"]
    out["resnet50_parameters"] = parameters(resnet)
    replaced = parameters(resnet.resnet.embedder) + parameters(resnet.resnet.encoder.stages[0])
    out["replaced_parameters"] = replaced
    out["resnet50_over_encoder_macs"] = out["resnet50_macs"] / out["encoder_macs"]
    for name in ("bpg", "jpeg", "crbq", "end"):
        out[f"doublings_{name}"] = doublings("student", name)
    work = 2 * out["encoder_macs"] / DEVICE
    student = Split(work, bytes_at("student", 74.0))
    for name in ("bpg",):
        other = Split(0.0, bytes_at(name, 74.0))
        out[f"bytes_{name}_at_74"] = other.sent_bytes
        out[f"wins_below_kbit_{name}"] = wins_between(student, other)[1] / 1e3
        out[f"latency_{name}_100k_s"] = other.latency_s(1e5)
    local = Split(2 * out["resnet50_macs"] / DEVICE, 0.0)
    out["latency_student_100k_s"] = student.latency_s(1e5)
    out["latency_local_s"] = local.device_s
    out["wins_above_kbit_local"] = wins_between(student, local)[0] / 1e3
    return {name: float(value) for name, value in out.items()}
