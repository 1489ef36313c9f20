"""The small convolutional network: shapes, and what is left of an image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.models.cnn import CNN, ConvPath


@pytest.mark.parametrize(
    ("padding", "pools", "left"), [(1, (True, True), 2), (1, (True, False), 4), (0, (True, True), 1)]
)
def test_what_is_left_of_an_image(padding, pools, left):
    path = ConvPath(3, 9 if padding else 10, (4, 6), pools, 5, padding=padding)
    assert path.linear.in_features == 6 * left * left
    assert path(torch.randn(2, 3, 9 if padding else 10, 9 if padding else 10)).shape == (2, 5)


def test_an_image_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match="too small"):
        ConvPath(1, 4, (4, 4, 4), (True, True, True), 5)


def test_it_is_the_layers_that_it_names():
    torch.manual_seed(0)
    path = ConvPath(1, 8, (3,), (True,), 4, norm=False).eval()
    conv, linear = path.convolutions[0], path.linear
    x = torch.randn(5, 1, 8, 8)
    expected = linear(nn.functional.max_pool2d(conv(x).relu(), 2).flatten(1))
    torch.testing.assert_close(path(x), expected)
    assert not any(isinstance(m, (nn.Dropout, nn.BatchNorm1d)) for m in path.modules())


def test_the_classifier():
    model = CNN(ConvPath(1, 8, (3, 4), (True, True), 6, dropout=0.1), (5,), 7)
    x = torch.randn(4, 1, 8, 8)
    assert model(x).shape == (4, 7)
    model.eval()
    torch.testing.assert_close(model(x), model.classifier(model.path(x).relu()))
