"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repro.evaluation.images import psnr, ssim


def picture(seed=0, shape=(16, 18)):
    return np.random.default_rng(seed).random(shape)


def test_psnr():
    truth = np.zeros((4, 4, 3))
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0)
    assert psnr(truth, truth) == math.inf
    with pytest.raises(ValueError, match="shapes"):
        psnr(truth, truth[..., 0])


def test_ssim_by_the_windows_of_its_definition():
    x, y = picture(0), picture(1)
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for i in range(16 - 10):
        for j in range(18 - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(x, y) == pytest.approx(np.mean(values), rel=1e-9)


def test_ssim_of_what_is_equal_and_of_colours():
    x = picture(shape=(12, 12, 3))
    assert ssim(x, x) == pytest.approx(1.0)
    y = picture(1, (12, 12, 3))
    assert ssim(x, y) == pytest.approx(np.mean([ssim(x[..., c], y[..., c]) for c in range(3)]))
    with pytest.raises(ValueError, match="shorter"):
        ssim(x[:8], x[:8])
