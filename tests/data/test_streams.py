"""Streams of tasks: disjoint classes, labels by arrival, and the stream in which nothing changes."""

from __future__ import annotations

import pytest
import torch

from repro.data.streams import class_incremental, stationary
from repro.data.textures import textures

DATA = textures(0, train=5, validation=1, test=2)


def test_classes_are_disjoint_and_numbered_by_arrival():
    stream = class_incremental(DATA, [8, 4, 4, 4], seed=1)
    assert [stream.seen(t) for t in range(4)] == [8, 12, 16, 20]
    assert [stream.known(t) for t in range(4)] == [0, 8, 12, 16]
    for task in range(4):
        labels = stream.train(stream.rows[task]).labels
        assert sorted(set(labels.tolist())) == list(range(stream.known(task), stream.seen(task)))
        assert set(stream.task_of(labels).tolist()) == {task}
        assert set(stream.test(task).labels.tolist()) == set(range(stream.seen(task)))
    assert sorted(torch.cat(stream.rows).tolist()) == list(range(100))


def test_labels_follow_their_images():
    stream = class_incremental(DATA, [4] * 5, seed=2)
    images = stream.train(stream.rows[2])
    assert torch.equal(stream.order[images.labels], DATA.train.labels[stream.rows[2]])
    assert torch.equal(images.pixels, DATA.train.pixels[stream.rows[2]])


def test_the_order_is_the_seed_s():
    orders = [class_incremental(DATA, [4] * 5, seed=s).order.tolist() for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_sizes_fill_the_classes():
    for sizes in ([4] * 4, [20, 0], [21]):
        with pytest.raises(ValueError, match="fill"):
            class_incremental(DATA, sizes, 0)


def test_a_stationary_stream_deals_all_classes_to_every_task():
    stream = stationary(DATA, 5, seed=0)
    assert sorted(torch.cat(stream.rows).tolist()) == list(range(100))
    assert {len(rows) for rows in stream.rows} == {20}
    assert stream.seen(0) == stream.seen(4) == 20
    assert len(stream.test(0).labels) == 40
    assert set(stream.task_of(torch.arange(20)).tolist()) == {0}
    shares = stationary(textures(0, train=50, validation=1, test=1), 5, seed=0)
    assert len(set(shares.train(shares.rows[3]).labels.tolist())) == 20
