"""DCN-V2 against the formula, and the two-class form of a logit."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from repro.models.dcn import DCNV2, ClickModel, CrossLayer, initialise_clicks
from repro.models.feature_tables import FeatureTables


def test_a_cross_layer_is_the_formula():
    layer = CrossLayer(3)
    first, x = torch.randn(5, 3), torch.randn(5, 3)
    w, b = layer.linear.weight, layer.linear.bias
    expected = torch.stack([f * (w @ y + b) + y for f, y in zip(first, x, strict=True)])
    torch.testing.assert_close(layer(first, x), expected)


def test_one_cross_layer_has_products_of_two_features_at_most():
    """The third mixed difference over distinct inputs of a cross layer vanishes; that of two layers does not."""
    torch.manual_seed(0)

    def third(net):
        total = torch.zeros(3)
        for bits in range(8):
            x = torch.tensor([[float(bits >> i & 1) for i in range(3)]])
            y = x
            for layer in net.cross:
                y = layer(x, y)
            total += (-1) ** (3 - bits.bit_count()) * y[0]
        return total.abs().max()

    assert third(DCNV2(3, 1, [])) < 1e-6
    assert third(DCNV2(3, 2, [])) > 1e-3


def test_parameters_are_counted_as_published_for_criteo():
    net = DCNV2(26 * 39 + 13, 2, [748, 748])
    width = 26 * 39 + 13
    expected = 2 * (width * width + width) + (width + 1) * 748 + 749 * 748 + 749
    assert sum(p.numel() for p in net.parameters()) == expected


def test_two_classes_have_the_cross_entropy_of_the_logit():
    model = ClickModel(FeatureTables((5, 4), 3), DCNV2(8, 1, [4]), 2)
    inputs = torch.cat([torch.randint(4, (10, 2)).double(), torch.randn(10, 2).double()], -1)
    labels = torch.randint(2, (10,))
    logits, extra = model(inputs)
    assert extra is None
    torch.testing.assert_close(
        F.cross_entropy(logits, labels), F.binary_cross_entropy_with_logits(model.logits(inputs), labels.float())
    )


def test_initial_weights_are_shared_by_name_and_shape():
    one = initialise_clicks(ClickModel(FeatureTables((5, 4), 3), DCNV2(6, 1, [4]), 2), 3)
    two = initialise_clicks(ClickModel(FeatureTables((5, 4), 3, (2, 2)), DCNV2(6, 1, [4]), 2), 3)
    assert torch.equal(one.head.cross[0].linear.weight, two.head.cross[0].linear.weight)
    assert one.embedding.embedding.weight.abs().max() <= 0.05
    assert one.head.output.bias.abs().sum() == 0
    other = initialise_clicks(ClickModel(FeatureTables((5, 4), 3), DCNV2(6, 1, [4]), 2), 4)
    assert not torch.equal(one.head.output.weight, other.head.output.weight)
