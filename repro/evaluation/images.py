"""How close a picture is to another: PSNR and SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np


def psnr(image: Any, truth: Any) -> float:
    """Peak signal-to-noise ratio in dB of pictures of one shape with values in [0, 1]; infinite for equal ones.

    Raises ValueError for different shapes.
    """
    error = float(np.mean((_array(image) - _array(truth, image)) ** 2))
    return float("inf") if error == 0 else -10.0 * float(np.log10(error))


def ssim(image: Any, truth: Any) -> float:
    """Structural similarity of pictures [H, W] or [H, W, C] with values in [0, 1]: 1 for equal ones.

    As Wang et al. (2004) define it: Gaussian windows of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, the mean over
    pixels whose window lies inside of the picture, and over channels.

    Raises ValueError for different shapes, or edges of less than 11 pixels.
    """
    from scipy.ndimage import gaussian_filter

    x, y = _array(image), _array(truth, image)
    if min(x.shape[:2]) < 11:
        raise ValueError(f"an edge of {min(x.shape[:2])} pixels is shorter than the window of 11")
    if x.ndim == 3:
        return float(np.mean([ssim(x[..., c], y[..., c]) for c in range(x.shape[2])]))

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=3.5)[5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def _array(pixels: Any, like: Any = None) -> np.ndarray:
    array = np.asarray(pixels, dtype=np.float64)
    if like is not None and array.shape != np.shape(like):
        raise ValueError(f"pictures have shapes {np.shape(like)} and {array.shape}")
    return array
