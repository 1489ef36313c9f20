"""The handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 pixels."""

from __future__ import annotations

import torch

from repro.data.base import order_seed
from repro.data.images import ImageData, Images


def digits(seed: int = 0, *, validation: float = 0.1, test: float = 0.3) -> ImageData:
    """The digits with pixels in [0, 1]; ``seed`` draws the split, every class in the same shares.

    Args:
        validation, test: shares of each class, rounded.

    Raises ValueError where a share leaves a split without an image of some class.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images).float().div_(16).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    generator = torch.Generator().manual_seed(order_seed("digits split", seed))
    parts: dict[str, list[torch.Tensor]] = {"train": [], "validation": [], "test": []}
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        sizes = {"test": round(test * len(members)), "validation": round(validation * len(members))}
        sizes["train"] = len(members) - sum(sizes.values())
        if min(sizes.values()) < 1:
            raise ValueError(f"shares of {validation} and {test} leave a split without a {label}")
        for (name, size), start in zip(sizes.items(), (0, sizes["test"], len(members) - sizes["train"]), strict=True):
            parts[name].append(members[start : start + size])

    def split(name: str) -> Images:
        rows = torch.cat(parts[name])
        rows = rows[torch.randperm(len(rows), generator=generator)]
        return Images(pixels[rows], labels[rows])

    return ImageData(
        name="digits",
        train=split("train"),
        validation=split("validation"),
        test=split("test"),
        classes=10,
        source="bundled",
        description="Handwritten digits of scikit-learn, 8 x 8 grey pixels.",
        details={"split_seed": seed},
    )
