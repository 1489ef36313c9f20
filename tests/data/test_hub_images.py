"""MNIST and CIFAR from small files of the original and of the hub's layout."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
import pytest
import torch

from repro.data import MissingData
from repro.data.registry import load_images

TRAIN, TEST = 12, 5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path / "real"))
    return tmp_path / "real"


def drawn(count, shape, classes, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, *shape), np.uint8), generator.integers(0, classes, count, np.uint8)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, zipped):
    for name, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        images, labels = drawn(count, (28, 28), 10, seed)
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / "mnist" / "raw" / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(content)) if zipped else idx(content))


def write_cifar(folder, name, classes, header):
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    if name == "cifar100":
        files = {"train": ["train.bin"], "test": ["test.bin"]}
    for split, names in files.items():
        images, labels = drawn(TRAIN if split == "train" else TEST, (3, 32, 32), classes, split == "test")
        rows = np.concatenate([*[labels[:, None]] * header, images.reshape(len(images), -1)], 1)
        if header == 2:
            rows[:, 0] //= 5  # the coarse label comes first
        for file, part in zip(names, np.array_split(rows, len(names)), strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(part.tobytes())


def write_hub(folder, name, image, label, shape, classes):
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        images, labels = drawn(count, shape, classes, seed)
        rows = []
        for pixels, number in zip(images, labels, strict=True):
            buffer = io.BytesIO()
            Picture.fromarray(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels).save(buffer, "PNG")
            rows.append({image: {"bytes": buffer.getvalue(), "path": None}, label: int(number)})
        path = folder / name / "plain" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows, features=Features({image: Image(), label: Value("int64")})).to_parquet(str(path))


def everything(data):
    """Images and labels of training and validation, in an order that the split does not change."""
    pixels = torch.cat([data.train.pixels, data.validation.pixels]).flatten(1)
    labels = torch.cat([data.train.labels, data.validation.labels])
    order = pixels.sum(1).argsort()
    return pixels[order], labels[order]


def check(data, shape, classes):
    assert data.classes == classes
    assert [len(data.split(s).labels) for s in ("train", "validation", "test")] == [TRAIN - 3, 3, TEST]
    assert data.train.pixels.shape[1:] == shape
    assert data.describe()["source"] == "real"
    images, labels = drawn(TEST, shape if shape[0] == 3 else shape[1:], classes, 1)
    torch.testing.assert_close(data.test.pixels.flatten(), torch.from_numpy(images).flatten() / 255)
    assert data.test.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_of_idx_files(folder, zipped):
    write_mnist(folder, zipped)
    check(load_images("mnist", validation=3), (1, 28, 28), 10)


@pytest.mark.parametrize(("name", "classes", "header"), [("cifar10", 10, 1), ("cifar100", 100, 2)])
def test_cifar_of_the_binary_release(folder, name, classes, header):
    write_cifar(folder, name, classes, header)
    check(load_images(name, validation=3), (3, 32, 32), classes)


@pytest.mark.parametrize(
    ("name", "image", "label", "shape", "classes"),
    [
        ("mnist", "image", "label", (1, 28, 28), 10),
        ("cifar10", "img", "label", (3, 32, 32), 10),
        ("cifar100", "img", "fine_label", (3, 32, 32), 100),
    ],
)
def test_tables_of_the_hub(folder, name, image, label, shape, classes):
    write_hub(folder, name, image, label, shape if shape[0] == 3 else shape[1:], classes)
    check(load_images(name, validation=3), shape, classes)


def test_layouts_agree_and_the_seed_chooses_validation(folder):
    write_cifar(folder, "cifar10", 10, 1)
    original = load_images("cifar10", validation=3)
    other = load_images("cifar10", validation=3, seed=1)
    for file in folder.rglob("*.bin"):
        file.unlink()
    write_hub(folder, "cifar10", "img", "label", (3, 32, 32), 10)
    hub = load_images("cifar10", validation=3)
    assert hub.fingerprint == original.fingerprint
    assert other.fingerprint != original.fingerprint
    torch.testing.assert_close(everything(other), everything(original))


def test_a_limit_takes_the_first_images(folder):
    write_mnist(folder, False)
    data = load_images("mnist", validation=1, limit=4)
    assert [len(data.split(s).labels) for s in ("train", "validation", "test")] == [3, 1, 4]
    with pytest.raises(ValueError, match="leave none"):
        load_images("mnist", validation=4, limit=4)


def test_what_is_wrong_is_named(folder):
    write_cifar(folder, "cifar10", 10, 1)
    (folder / "cifar10" / "test_batch.bin").write_bytes(b"x" * 100)
    with pytest.raises(MissingData, match=r"test_batch\.bin is cut short"):
        load_images("cifar10", validation=3)
    write_cifar(folder, "cifar100", 255, 2)
    with pytest.raises(MissingData, match="is not 100 classes"):
        load_images("cifar100", validation=3)
    write_mnist(folder, False)
    raw = folder / "mnist" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(MissingData, match="cut short"):
        load_images("mnist", validation=3)


def test_absent_images_are_an_error_that_says_how_to_get_them(no_network):
    with pytest.raises(MissingData, match=r"'cifar10' is absent .*uoft-cs/cifar10.*laptop scale") as error:
        load_images("cifar10")
    assert "word-problems" not in str(error.value)
