"""Residual networks in parts: shapes, parameters, and the shortcut without parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.models.resnet import BasicBlock, ResNetConfig, convnet_parts, initialise_parts, resnet_parts


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("depth", "total"), [(14, 171_856), (20, 269_072), (26, 366_288), (32, 463_504)])
def test_sizes_are_those_of_the_cifar_networks(depth, total):
    parts = resnet_parts(ResNetConfig(depth))
    assert sum(map(count, parts)) == total
    layers = sum(isinstance(m, nn.Conv2d) for part in parts for m in part.modules())
    assert layers + 1 == depth  # and the classifier


def test_parts_compose_to_a_network():
    parts = resnet_parts(ResNetConfig(8, 4))
    x = torch.randn(2, 3, 16, 16)
    shapes = []
    for part in parts:
        x = part(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(2, 4, 16, 16), (2, 4, 16, 16), (2, 8, 8, 8), (2, 16)]
    assert nn.Sequential(*convnet_parts(2, 8))(torch.randn(2, 3, 16, 16)).shape == (2, 8)


def test_depth_is_six_n_and_two():
    for depth in (2, 10, 31):
        with pytest.raises(ValueError, match="depth"):
            ResNetConfig(depth)


def test_a_block_whose_convolutions_give_nothing_is_its_shortcut():
    block = BasicBlock(3, 6, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 3, 8, 8)
    out = block(x)
    torch.testing.assert_close(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()


def test_initial_weights_depend_on_the_part_and_not_on_the_rest():
    shallow, deep = (resnet_parts(ResNetConfig(depth, 4)) for depth in (8, 14))
    initialise_parts(shallow, 3)
    initialise_parts(deep, 3)
    assert torch.equal(shallow[1][0].conv1.weight, deep[1][0].conv1.weight)
    before = shallow[3][0].conv2.weight.clone()
    initialise_parts(shallow, 4)
    assert not torch.equal(before, shallow[3][0].conv2.weight)
    wide = resnet_parts(ResNetConfig(8, 64))
    initialise_parts(wide, 0)
    assert float(wide[3][0].conv2.weight.detach().std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
