"""Codecs for images: what is counted as payload."""

from __future__ import annotations

import io

import pytest
import torch

from repro.evaluation.image_codecs import avif_payload, code_images, encode_image, jpeg_payload, webp_payload

pytest.importorskip("PIL")


def pictures(channels=1, count=3, size=32):
    draws = torch.Generator().manual_seed(0)
    rough = torch.rand(count, channels, 8, 8, generator=draws)
    return torch.nn.functional.interpolate(rough, size=size, mode="bilinear")


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_quality_costs_payload_and_pays(codec, channels):
    x = pictures(channels)
    low, high = code_images(x, codec, 5), code_images(x, codec, 80)
    assert low.pixels.shape == x.shape
    assert (low.payload < high.payload).all()
    assert (low.pixels - x).square().mean() > (high.pixels - x).square().mean()
    assert (high.pixels - x).abs().mean() < 0.05
    assert (low.payload < low.file).all()
    assert torch.equal(code_images(x, codec, 5).pixels, low.pixels)


def test_headers_are_not_payload():
    flat, busy = torch.full((1, 32, 32), 0.5), torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1))
    for codec, measure in (("jpeg", jpeg_payload), ("webp", webp_payload), ("avif", avif_payload)):
        files = [encode_image(image, codec, 50) for image in (flat, busy)]
        headers = [len(file) - measure(file) for file in files]
        assert abs(headers[0] - headers[1]) <= 4, codec  # lengths that are written in the container
        if codec == "webp":
            assert headers[0] in (27, 28)  # container 12, chunk 8, start code and size 7, padding
            # what is left out says nothing of the image
            assert files[0][23:30] == files[1][23:30] == b"\x9d\x01\x2a\x20\x00\x20\x00"
        assert measure(files[0]) < 30 < 100 < measure(files[1])
        with pytest.raises(ValueError, match="not a"):
            measure(b"\0" * 64)


def test_the_segment_of_a_jpeg_holds_all_that_differs():
    # 16 blocks of the same grey: a DC code of 2 bits for each after the first and an end of block of 4
    flat = encode_image(torch.full((1, 32, 32), 128 / 255), "jpeg", 50)
    assert jpeg_payload(flat) == 12
    from PIL import Image

    assert Image.open(io.BytesIO(flat)).mode == "L"


def test_a_codec_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="bmp"):
        code_images(pictures(), "bmp", 50)
