"""Text of several domains, packed so that the rows of a micro-batch come from one of them.

That is how pre-training data are often packed, and what makes the scope of a load-balancing loss matter: a constraint
within a micro-batch is then one within a domain. Three domains are cut from Python's standard library (``code``:
library sources; ``prose``: the language reference that ``pydoc`` shows; ``tables``: the codec maps in ``encodings``)
and three are generated (``chains``: an order-2 Markov language over 16 letters that the other domains use too;
``sums``: additions of two digits; ``brackets``: balanced brackets of four kinds). All are bytes, in equal parts.

In ``domains-mixed``, the control, every row holds a piece of each domain, in random order: the same text in the same
shares, but no row and no micro-batch belongs to a domain.
"""

from __future__ import annotations

import itertools
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from repro.data.base import Batch, LanguageData, TokenRows, order_seed
from repro.data.cache import cached, column
from repro.data.errors import MissingData
from repro.data.hub import SLIMPAJAMA, SLIMPAJAMA_DOCUMENTS, SLIMPAJAMA_HELD_OUT, load_split, missing
from repro.data.stdlib import library_files
from repro.data.text import tokenise, tokenizer_fingerprint
from repro.data.tokenizers import byte_tokenizer, encode_bytes, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

REAL = ("code", "prose", "tables")
GENERATED = ("chains", "sums", "brackets")
#: Bytes of each domain for training, and held out.
TRAIN_BYTES, HELD_OUT_BYTES = 400_000, 20_000
#: Letters of ``chains``; frequent in the other domains as well, so that a letter does not give the domain away.
LETTERS = b"etaoinshrdlucmfp"


@dataclass(frozen=True, eq=False)
class DomainData(LanguageData):
    """Rows of several domains. Every ``micro_batch`` adjacent rows of an order come from one domain (from the same mix
    in a control without domains), and the domains take turns in a fresh random order each round, so that a large batch
    holds them in nearly equal shares.

    Attributes:
        domains: their names.
        labels, held_out_labels: the domain of every token of the two streams, uint8.
        groups, held_out_groups: the rows of each domain, LongTensors; a single group where rows belong to none.
        micro_batch: rows of a micro-batch.
    """

    domains: tuple[str, ...] = ()
    labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    groups: tuple[Tensor, ...] = ()
    held_out_groups: tuple[Tensor, ...] = ()
    micro_batch: int = 2

    def train_order(self, steps: int, batch: int, seed: int) -> Tensor:
        """Indices of training rows, LongTensor [steps, batch]. The order of rows does not depend on how it is cut into
        steps and batches; a longer order starts with the shorter one. Every domain's rows are shuffled anew each epoch.

        Raises ValueError when a batch is no multiple of the micro-batch.
        """
        if batch % self.micro_batch:
            raise ValueError(f"a batch of {batch} rows does not divide into micro-batches of {self.micro_batch}")
        return self._order(self.groups, steps * batch, seed, "data order").view(steps, batch)

    def held_out_batches(self, batches: int, batch: int) -> list[Batch]:
        """A fixed sample of the held-out rows, the domains in equal shares, micro-batch by micro-batch as in training;
        without repetition: fewer rows than asked for when there are not enough."""
        return [self.held_out.take(part) for part in self._held_out_rows(batches * batch).split(batch)]

    def held_out_domains(self, batches: int, batch: int) -> list[Tensor]:
        """The domain of every input of `held_out_batches`: LongTensors [batch, sequence]."""
        assert self.held_out_labels is not None
        rows = TokenRows(self.held_out_labels, self.sequence, None, self.held_out.starts, self.held_out.lengths)
        return [rows.take(part).inputs for part in self._held_out_rows(batches * batch).split(batch)]

    def _held_out_rows(self, wanted: int) -> Tensor:
        smallest = min(len(group) for group in self.held_out_groups) // self.micro_batch * self.micro_batch
        return self._order(self.held_out_groups, min(wanted, smallest * len(self.held_out_groups)), 0, "held-out")

    def _order(self, groups: tuple[Tensor, ...], rows: int, seed: int, purpose: str) -> Tensor:
        """So many rows, micro-batch by micro-batch."""
        micro = -(-rows // self.micro_batch)
        turns = torch.Generator().manual_seed(order_seed(f"{purpose}, turns", seed))
        rounds = [torch.randperm(len(groups), generator=turns) for _ in range(-(-micro // len(groups)))]
        turn = torch.cat(rounds)[:micro] if rounds else torch.empty(0, dtype=torch.long)
        out = torch.empty(micro, self.micro_batch, dtype=torch.long)
        for index, group in enumerate(groups):
            mine = turn == index
            needed = int(mine.sum()) * self.micro_batch
            generator = torch.Generator().manual_seed(order_seed(f"{purpose}, domain {index}", seed))
            epochs = [group[torch.randperm(len(group), generator=generator)] for _ in range(-(-needed // len(group)))]
            if epochs:
                out[mine] = torch.cat(epochs)[:needed].view(-1, self.micro_batch)
        return out.flatten()[:rows]


def domains(
    sequence: int, *, seed: int = 0, limit: int | None = None, micro_batch: int = 2, root: Path | None = None
) -> DomainData:
    """Six domains as bytes, every row of one domain.

    Held out is later text of the same files (``code``, ``tables``: the last 5 % of every file; ``prose``: the last 5 %
    of every topic) and text generated apart. ``limit``: bytes of each domain for training (400,000). ``seed`` is that
    of the generated domains and of the choice of files. The content depends on the Python version.

    Raises MissingData when this Python has no sources beside it.
    """
    return _pack("domains", sequence, *_streams(seed, limit, root), micro_batch, mixed=False)


def domains_mixed(
    sequence: int, *, seed: int = 0, limit: int | None = None, micro_batch: int = 2, root: Path | None = None
) -> DomainData:
    """The text of `domains`, every row made of one piece of each, in random order. Options and errors as there."""
    return _pack("domains-mixed", sequence, *_streams(seed, limit, root), micro_batch, mixed=True, seed=seed)


def _pack(
    name: str,
    sequence: int,
    train: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    micro_batch: int,
    *,
    mixed: bool,
    seed: int = 0,
) -> DomainData:
    lay = (lambda parts: _mix(parts, sequence, seed)) if mixed else (lambda parts: _lay(parts, sequence))
    rows, labels, groups = lay(list(train.values()))
    later, later_labels, later_groups = lay(list(held_out.values()))
    return DomainData(
        name=name,
        train=rows,
        held_out=later,
        tokenizer=byte_tokenizer(),
        source="bundled",
        description=f"Bytes of six domains in equal parts: {', '.join(REAL)} from the standard library of Python "
        f"{platform.python_version()}; {', '.join(GENERATED)} generated. "
        + ("Every row holds a piece of each." if mixed else "Every row is of one domain."),
        details={"domains": list(train), "python": platform.python_version(), "micro_batch": micro_batch},
        domains=tuple(train),
        labels=labels,
        held_out_labels=later_labels,
        groups=groups,
        held_out_groups=later_groups,
        micro_batch=micro_batch,
    )


def _lay(parts: list[np.ndarray], sequence: int, pad: int = 0) -> tuple[TokenRows, Tensor, tuple[Tensor, ...]]:
    """Streams one after another, cut into rows that stay within a stream; the labels of all tokens, and the rows of
    each stream."""
    starts, groups, offset, count = [], [], 0, 0
    for part in parts:
        rows = (len(part) - 1) // sequence
        if rows < 1:
            raise ValueError(f"{len(part)} tokens of a domain give no row of {sequence + 1}")
        starts.append(torch.arange(rows) * sequence + offset)
        groups.append(torch.arange(count, count + rows))
        offset, count = offset + len(part), count + rows
    begin = torch.cat(starts)
    labels = torch.from_numpy(np.repeat(np.arange(len(parts), dtype=np.uint8), [len(p) for p in parts]))
    lengths = torch.full_like(begin, sequence + 1)
    tokens = torch.from_numpy(np.concatenate(parts))
    return TokenRows(tokens, sequence, None, begin, lengths, pad), labels, tuple(groups)


def _mix(parts: list[np.ndarray], sequence: int, seed: int) -> tuple[TokenRows, Tensor, tuple[Tensor, ...]]:
    """Rows of one piece of each stream, in random order."""
    piece = -(-(sequence + 1) // len(parts))
    rows = min(len(part) for part in parts) // piece
    if rows < 1 or sequence + 1 < len(parts):
        raise ValueError(f"the domains do not fill a row of {sequence + 1}")
    pieces = np.stack([part[: rows * piece].reshape(rows, piece) for part in parts], 1)
    draw = np.random.default_rng(order_seed("pieces", seed))
    order = draw.permuted(np.tile(np.arange(len(parts)), (rows, 1)), axis=1)
    # what is too much for a row is taken from the ends of the first pieces, one token each
    kept = np.ones(len(parts) * piece, bool)
    kept[piece - 1 :: piece][: len(parts) * piece - (sequence + 1)] = False
    tokens = np.take_along_axis(pieces, order[:, :, None], 1).reshape(rows, -1)[:, kept]
    labels = np.repeat(order, piece, axis=1)[:, kept].astype(np.uint8)
    begin = torch.arange(rows) * (sequence + 1)
    flat = torch.from_numpy(np.ascontiguousarray(tokens).reshape(-1))
    lengths = torch.full_like(begin, sequence + 1)
    taken = TokenRows(flat, sequence, None, begin, lengths)
    return taken, torch.from_numpy(np.ascontiguousarray(labels).reshape(-1)), (torch.arange(rows),)


# --- the six domains ---------------------------------------------------------------------------------------------


def _streams(seed: int, limit: int | None, root: Path | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    wanted = TRAIN_BYTES if limit is None else limit
    train: dict[str, np.ndarray] = {}
    held_out: dict[str, np.ndarray] = {}
    for name, documents in (("code", _code(root)), ("prose", _prose()), ("tables", _tables(root))):
        train[name], held_out[name] = _cut(name, documents, wanted, seed)
    for part, streams, count in (("train", train, wanted), ("held-out", held_out, HELD_OUT_BYTES)):
        draws = {name: np.random.default_rng(order_seed(f"{name}, {part}", seed)) for name in GENERATED}
        streams["chains"] = _chains(np.random.default_rng(order_seed("chains, rule", seed)), draws["chains"], count)
        streams["sums"] = _sums(draws["sums"], count)
        streams["brackets"] = _brackets(draws["brackets"], count)
    return train, held_out


def _cut(name: str, documents: list[bytes], wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents in random order until there are ``wanted`` bytes; the last 5 % of each, from the next start of a
    line on, are held out. Text is repeated where the documents hold less."""
    train: list[np.ndarray] = []
    held_out: list[np.ndarray] = []
    order = np.random.default_rng(order_seed(f"{name}, files", seed)).permutation(len(documents))
    had = kept = 0
    for index in order:
        raw = documents[index]
        cut = raw.find(b"\n", int(0.95 * len(raw))) + 1 or len(raw)
        if had < wanted:
            train.append(encode_bytes(raw[:cut], end=True))
            had += len(train[-1])
        if cut < len(raw) and kept < HELD_OUT_BYTES:
            held_out.append(encode_bytes(raw[cut:], end=True))
            kept += len(held_out[-1])
    if not train or not held_out:
        raise MissingData(
            f"the standard library of this Python holds no text for {name!r}: install a Python that ships its .py "
            "files, or choose other data"
        )
    return np.resize(np.concatenate(train), wanted), np.concatenate(held_out)[:HELD_OUT_BYTES]


def _code(root: Path | None) -> list[bytes]:
    return [path.read_bytes() for path in library_files(root)]


def _prose() -> list[bytes]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [topics[name].encode() for name in sorted(topics)]


def _tables(root: Path | None) -> list[bytes]:
    root = root or Path(sysconfig.get_paths()["stdlib"])
    return [path.read_bytes() for path in sorted((root / "encodings").glob("*.py")) if path.stat().st_size > 8000]


def _chains(rule: np.random.Generator, draw: np.random.Generator, count: int) -> np.ndarray:
    """An order-2 Markov chain: after any two letters three can follow, with chances 0.7, 0.2 and 0.1."""
    letters = np.frombuffer(LETTERS, np.uint8)
    n = len(letters)
    follow = np.stack([rule.permutation(n)[:3] for _ in range(n * n)])
    picks = draw.choice(3, size=count, p=(0.7, 0.2, 0.1))
    out = np.empty(count, np.int64)
    one, two = 0, 1
    for i in range(count):
        one, two = two, int(follow[one * n + two, picks[i]])
        out[i] = two
    return letters[out].astype(np.int16)


def _sums(draw: np.random.Generator, count: int) -> np.ndarray:
    """Lines ``a+b=c`` of one-digit numbers. Larger ones are learned in one jump, early or late by chance, which would
    hide small differences between models."""
    numbers = draw.integers(0, 10, size=(count // 6 + 1, 2))
    return encode_bytes("".join(f"{a}+{b}={a + b}\n" for a, b in numbers.tolist()))[:count]


def _brackets(draw: np.random.Generator, count: int) -> np.ndarray:
    """Balanced brackets of four kinds, no deeper than 12; a line ends where all are closed, with chance 1/4."""
    opening, closing = b"([{<", b")]}>"
    kinds, chances = draw.integers(0, 4, size=count), draw.random(count)
    stack: list[int] = []
    out = bytearray()
    for kind, chance in zip(kinds.tolist(), chances.tolist(), strict=True):
        if stack and (chance < 0.5 or len(stack) == 12):
            out.append(closing[stack.pop()])
        elif not stack and chance < 0.25 and out:
            out.append(10)
        else:
            stack.append(kind)
            out.append(opening[kind])
    return encode_bytes(bytes(out))


# --- real data ---------------------------------------------------------------------------------------------------


def slimpajama_domains(
    sequence: int,
    *,
    limit: int | None = None,
    tokenizer: str = "deepseek-ai/DeepSeek-V2-Lite",
    revision: str | None = None,
    micro_batch: int = 4,
) -> DomainData:
    """The 6-billion-token sample of SlimPajama by its sources (``meta.redpajama_set_name``: CommonCrawl, C4, GitHub,
    Book, ArXiv, Wikipedia, StackExchange), packed source by source, train and validation split as published.

    Reads as much as `repro.data.hub.slimpajama`. The sources take turns in equal shares and not as they stand in the
    corpus; a source of which either split has no full micro-batch is left out. Raises MissingData.
    """
    limit = SLIMPAJAMA_DOCUMENTS if limit is None else limit
    cutter = load_tokenizer(tokenizer)
    pad = cutter.pad_token_id if cutter.pad_token_id is not None else cutter.eos_token_id

    def streams(split: str, most: int) -> dict[str, np.ndarray]:
        found, identity = load_split(SLIMPAJAMA, split, revision=revision, stream=True)

        def build() -> Dataset:
            names: list[str] = []
            table = tokenise(_remember(itertools.islice(found, most), names), cutter)
            return cast("Dataset", table.add_column("domain", names))  # type: ignore[call-arg]

        which = {"of": identity, "limit": most, "tokenizer": tokenizer_fingerprint(cutter)}
        table = cached("slimpajama-domains", which, __name__, build)
        ids, lengths = column(table, "ids"), column(table, "length").astype(np.int64)
        ends = np.cumsum(lengths)
        kind = np.int16 if len(cutter) < 2**15 else np.int32
        parts: dict[str, list[np.ndarray]] = {}
        for name, end, length in zip(table["domain"], ends, lengths, strict=True):
            parts.setdefault(name, []).append(ids[end - length : end])
        return {name: np.concatenate(parts[name]).astype(kind) for name in sorted(parts)}

    train, held_out = streams("train", limit), streams("validation", SLIMPAJAMA_HELD_OUT)
    enough = micro_batch * sequence + 1
    kept = [n for n in train if len(train[n]) >= enough and len(held_out.get(n, ())) >= enough]
    if not kept:
        raise ValueError(f"no source of SlimPajama fills a micro-batch of {micro_batch} rows in both splits")
    rows, labels, groups = _lay([train[n] for n in kept], sequence, pad)
    later, later_labels, later_groups = _lay([held_out[n] for n in kept], sequence, pad)
    return DomainData(
        name="slimpajama-domains",
        train=rows,
        held_out=later,
        tokenizer=cutter,
        source="real",
        description=f"SlimPajama-6B by source ({', '.join(kept)}), the first {limit:,} training documents; the first "
        f"{SLIMPAJAMA_HELD_OUT:,} of its validation split held out; tokenizer {tokenizer}.",
        details={"domains": kept, "tokenizer": tokenizer, "limit": limit, "micro_batch": micro_batch},
        domains=tuple(kept),
        labels=labels,
        held_out_labels=later_labels,
        groups=groups,
        held_out_groups=later_groups,
        micro_batch=micro_batch,
    )


def _remember(rows: Iterable[Any], names: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The documents, while the source of each is put into ``names``."""
    for row in rows:
        try:
            names.append(row["meta"]["redpajama_set_name"])
        except (KeyError, TypeError):
            raise missing(SLIMPAJAMA, "the data found do not name the source of a document") from None
        yield row["text"], (0, 0)
