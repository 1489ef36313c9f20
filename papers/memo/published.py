"""The published networks on the meta device: what they weigh, and how many exemplars that is."""

from __future__ import annotations

import torch
from torch import nn

from papers.memo.method import affordable_exemplars, exchange_rate, expanded_parameters, memory_bytes
from papers.memo.paper import POINTS
from repro.models.resnet import ResNetConfig, convnet_parts, resnet_parts

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
TASKS, EXEMPLARS = 10, 2000
DEPTHS = (14, 20, 26, 32)


def sizes(parts: list[nn.Module], shared: int | None = None) -> tuple[int, int]:
    """Parameters of the generalised part, all parts but the last unless ``shared`` are, and of the specialised one."""
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    cut = len(counts) - 1 if shared is None else shared
    return sum(counts[:cut]), sum(counts[cut:])


def cifar_sizes(depth: int) -> tuple[int, int]:
    """Of a ResNet for CIFAR."""
    with torch.device("meta"):
        return sizes(resnet_parts(ResNetConfig(depth)))


def conv2_sizes() -> tuple[int, int]:
    """Of the network of two convolutional layers."""
    with torch.device("meta"):
        return sizes(convnet_parts(2, 64))


def resnet18_sizes() -> tuple[int, int]:
    """Of ResNet-18 for ImageNet without its classifier, specialised from the fourth stage on."""
    from transformers import ResNetConfig as HubConfig
    from transformers import ResNetModel

    shape = HubConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", embedding_size=64)
    with torch.device("meta"):
        model = ResNetModel(shape)
    return sizes([model.embedder, *model.encoder.stages])


def extra_exemplars(generalised: int, specialised: int, tasks: int, image: tuple[int, ...]) -> tuple[int, int]:
    """What MEMO and a single backbone afford beyond a method that saves a whole network for each of ``tasks``."""
    budget = memory_bytes(tasks * (generalised + specialised), 0, image)
    memo = expanded_parameters(generalised, specialised, tasks)
    return affordable_exemplars(budget, memo, image), affordable_exemplars(budget, generalised + specialised, image)


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for depth in DEPTHS:
        shared, own = cifar_sizes(depth)
        out[f"generalised_{depth}"], out[f"specialised_{depth}"] = shared, own
        out[f"parameters_{depth}"] = shared + own
        out[f"exemplars_per_copy_{depth}"] = exchange_rate(shared + own, CIFAR)
        out[f"expanded_memo_{depth}"] = expanded_parameters(shared, own, TASKS)
        out[f"expanded_der_{depth}"] = TASKS * (shared + own)
        out[f"extra_memo_{depth}"], out[f"extra_single_{depth}"] = extra_exemplars(shared, own, TASKS, CIFAR)
        for name in ("memo", "single"):
            out[f"aligned_{name}_{depth}"] = EXEMPLARS + out[f"extra_{name}_{depth}"]
    shared, own = cifar_sizes(32)
    for tasks in (6, 20):
        out[f"extra_memo_32_{tasks}_tasks"], out[f"extra_single_32_{tasks}_tasks"] = extra_exemplars(
            shared, own, tasks, CIFAR
        )
    copies = [sum(cifar_sizes(32)), *(TASKS * sum(cifar_sizes(depth)) for depth in DEPTHS)]
    for name, parameters in zip(POINTS[5], copies, strict=True):
        out[f"budget_mib_{name}"] = memory_bytes(parameters, EXEMPLARS, CIFAR) / 2**20
    out["memory_mib_memo_2000_exemplars"] = memory_bytes(int(out["expanded_memo_32"]), EXEMPLARS, CIFAR) / 2**20
    conv = conv2_sizes()
    out["parameters_conv2"], out["specialised_conv2"] = sum(conv), conv[1]
    small = memory_bytes(copies[0], EXEMPLARS, CIFAR)
    out["exemplars_der_small"] = affordable_exemplars(small, TASKS * sum(conv), CIFAR)
    out["exemplars_memo_small"] = affordable_exemplars(small, expanded_parameters(*conv, TASKS), CIFAR)
    shared, own = resnet18_sizes()
    out["parameters_resnet18"], out["specialised_resnet18"] = shared + own, own
    out["exemplars_per_copy_resnet18"] = exchange_rate(shared + own, IMAGENET)
    out["expanded_memo_resnet18"] = expanded_parameters(shared, own, TASKS)
    out["expanded_der_resnet18"] = TASKS * (shared + own)
    return {name: float(value) for name, value in out.items()}
