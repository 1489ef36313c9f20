"""The standard library as a corpus."""

from __future__ import annotations

import platform

import pytest
import torch

from repro.data import MissingData, load_language
from repro.data.stdlib import library_files, stdlib


@pytest.fixture
def library(tmp_path):
    for name in ("b.py", "a.py", "pack/c.py", "pack/test/d.py", "site-packages/e.py", "_sysconfigdata_x.py", "f.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{path.stem} = {line}\n" for line in range(100)))
    return tmp_path


def _text(tokens) -> bytes:
    return bytes(token for token in tokens.tolist() if token < 256)


def test_the_last_twentieth_of_every_file_is_held_out(library):
    data = stdlib(16, root=library)
    assert [p.relative_to(library).as_posix() for p in library_files(library)] == ["a.py", "b.py", "pack/c.py"]
    documents = _split(data.train.tokens)
    tails = _split(data.held_out.tokens)
    assert len(documents) == len(tails) == 3
    for path, head, tail in zip(library_files(library), documents, tails, strict=True):
        raw = path.read_bytes()
        assert head + tail == raw
        assert head.endswith(b"\n")
        assert 0.02 < len(tail) / len(raw) < 0.05


def _split(tokens) -> list[bytes]:
    ends = (tokens == 257).nonzero().flatten().tolist()
    return [_text(tokens[a:b]) for a, b in zip([-1, *ends[:-1]], ends, strict=True) for a in [a + 1]]


def test_limit_reads_fewer_files(library):
    assert len(_split(stdlib(16, root=library, limit=2).train.tokens)) == 2


def test_no_sources(tmp_path):
    with pytest.raises(MissingData, match="no standard-library sources"):
        stdlib(16, root=tmp_path)


def test_this_python():
    data = load_language("stdlib", 128)
    assert data.details["python"] == platform.python_version()
    assert data.train_rows > 20_000
    assert 0.03 < data.held_out_rows / data.train_rows < 0.07
    batch = data.rows(data.train_order(1, 4, seed=0)[0])
    assert batch.inputs.shape == (4, 128)
    assert int(batch.inputs.max()) < data.vocab_size == 258
    assert load_language("stdlib", 64).fingerprint == data.fingerprint
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
