"""How close generated images are to real ones, with measures that are right for some hundred samples.

All work on features ``[N, d]``, float64. The Frechet distance of the field (FID) compares means and covariances only,
and with N not far above d it is biased upwards by more than the differences that are looked for. The kernel distance is
an unbiased estimate at any N, may be negative, and sees all moments up to the third; of the two it is the one to decide
by at small size. Precision and recall tell apart what both mix: whether samples look real, and whether all kinds of
real images are made.

For images of some dozen pixels principal components of real training images are the features (`Components`): no network
has to be trained for them, they keep nearly all variance, and distances between normals have closed forms that the
measures are tested against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import linalg
from torch import Tensor


class Components(NamedTuple):
    """A linear map to principal components of unit mean variance: features ``(x - mean) @ basis / scale``."""

    mean: np.ndarray
    basis: np.ndarray
    scale: float

    def __call__(self, images: Tensor) -> np.ndarray:
        """``[N, ...]`` to ``[N, d]``."""
        flat = images.detach().cpu().double().flatten(1).numpy()
        return (flat - self.mean) @ self.basis / self.scale


def components(images: Tensor, count: int) -> Components:
    """The first ``count`` principal components of real images ``[N, ...]``, fewer where images have fewer values."""
    flat = images.detach().cpu().double().flatten(1).numpy()
    mean = flat.mean(0)
    values, vectors = linalg.eigh(np.cov(flat, rowvar=False))
    order = values.argsort()[::-1][:count]
    basis = vectors[:, order]
    # the sign of an eigenvector is free: the largest entry is made positive
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    return Components(mean, basis, float(np.sqrt(values[order].mean())))


def frechet_distance(real: np.ndarray, made: np.ndarray) -> float:
    """Squared Frechet distance of the normals with the means and covariances of two sets of features (Heusel et al.,
    2017). Biased upwards, for whitened normal features and N of each by about d (d + 1) / (2 N) + 2 d / N: compare sets
    of equal size only."""
    return frechet_of_normals(
        real.mean(0), np.cov(real, rowvar=False), made.mean(0), np.cov(made, rowvar=False)
    )  # fmt: skip


def frechet_of_normals(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``; the root's trace is that of ``(S C2 S)^(1/2)`` with
    ``S = C1^(1/2)``, which is symmetric."""
    values, vectors = linalg.eigh(np.atleast_2d(cov1))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = linalg.eigvalsh(root @ np.atleast_2d(cov2) @ root).clip(0)
    difference = np.atleast_1d(mean1 - mean2)
    return float(difference @ difference + np.trace(np.atleast_2d(cov1 + cov2)) - 2 * np.sqrt(inner).sum())


def kernel_distance(real: np.ndarray, made: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel ``(x'y / d + 1)^3`` (KID; Binkowski et
    al., 2018). 0 in the mean where both come from one distribution, and then negative about half of the time.

    Raises ValueError for fewer than two samples of either.
    """
    if min(len(real), len(made)) < 2:
        raise ValueError("a kernel distance needs two samples of each")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        found = kernel(a, a)
        return float((found.sum() - np.trace(found)) / (len(a) * (len(a) - 1)))

    return within(real) + within(made) - 2 * float(kernel(real, made).mean())


class Coverage(NamedTuple):
    """Shares in [0, 1]: of made samples near real ones, and of real samples near made ones."""

    precision: float
    recall: float


def precision_recall(real: np.ndarray, made: np.ndarray, neighbours: int = 3) -> Coverage:
    """Near is within the distance that a sample of a set has to its k-th neighbour in that set (Kynkaanniemi et al.,
    2019). Raises ValueError for sets of no more than ``neighbours`` samples."""
    from scipy.spatial.distance import cdist

    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more samples than that")

    def share_within(of: np.ndarray, balls: np.ndarray) -> float:
        radius = np.sort(cdist(balls, balls), 1)[:, neighbours]  # the first is the sample itself
        return float((cdist(of, balls) <= radius).any(1).mean())

    return Coverage(share_within(made, real), share_within(real, made))


class ClassScore:
    """Share of made images that a fixed classifier takes for the class they were asked for.

    The classifier is a support vector machine with a radial kernel on the features of real training images: it has no
    random part. Its accuracy on real test images is the most that can be expected.
    """

    def __init__(self, features: np.ndarray, labels: Tensor):
        from sklearn.svm import SVC

        self._classifier: Any = SVC(C=10.0).fit(features, labels.numpy())

    def accuracy(self, features: np.ndarray, labels: Tensor) -> float:
        """In percent."""
        return float(100 * (self._classifier.predict(features) == labels.cpu().numpy()).mean())


def compare(real: Tensor, made: Tensor, features: Components) -> dict[str, float]:
    """Every measure of this file between two sets of images of equal size: ``kernel_distance`` (times 1,000),
    ``frechet_distance``, ``precision`` and ``recall`` (percent). All nan where an image is not finite."""
    names = ("kernel_distance", "frechet_distance", "precision", "recall")
    if not torch.isfinite(made).all():
        return dict.fromkeys(names, float("nan"))
    a, b = features(real), features(made)
    covered = precision_recall(a, b)
    found = (1000 * kernel_distance(a, b), frechet_distance(a, b), 100 * covered.precision, 100 * covered.recall)
    return dict(zip(names, found, strict=True))
