"""Tokenizers made here: bytes and whole words. Both are transformers fast tokenizers and survive save and load."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.data.errors import MissingData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
BYTE_PAD, BYTE_EOS = 256, 257


@functools.lru_cache
def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table), by byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte of UTF-8: ids 0 to 255 are the bytes, 256 is ``<pad>``, 257 ``<eos>`` (end of document)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    vocab |= {PAD: BYTE_PAD, EOS: BYTE_EOS}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer, name_or_path="bytes", pad_token=PAD, eos_token=EOS)


def encode_bytes(text: str | bytes, *, end: bool = False) -> np.ndarray:
    """The tokens of `byte_tokenizer` for ``text``, int16 [length], without the detour through the tokenizer."""
    raw = text.encode() if isinstance(text, str) else text
    tokens = np.frombuffer(raw, np.uint8).astype(np.int16)
    return np.append(tokens, np.int16(BYTE_EOS)) if end else tokens


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word between white space. Ids: ``<pad>`` 0, ``<eos>`` 1, ``<unk>`` 2, then ``words`` in order.

    Raises ValueError for a repeated word or one with white space in it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {word: index for index, word in enumerate((PAD, EOS, UNKNOWN, *words))}
    if len(vocab) != len(words) + 3 or any(word.split() != [word] for word in words):
        raise ValueError("words must be distinct and hold no white space")
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def _fast(tokenizer: object, **options: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, padding_side="left", **options
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer by name: ``bytes``, a folder, a folder under ``REPRO_DATA_DIR/tokenizers``, or a hub id.

    A hub id may end in ``@`` and a revision (`repro.data.hub_probe.locate`); a folder that stands in for it has to end
    so too.

    Raises MissingData when it is none of these, or the hub cannot be reached.
    """
    if name == "bytes":
        return byte_tokenizer()
    from repro.data.hub_probe import locate, split_revision

    owner = split_revision(name)[0].rpartition("/")[0]
    last = name.removeprefix(f"{owner}/")
    here = [Path(name).expanduser()]
    if root := os.environ.get("REPRO_DATA_DIR"):
        here += [Path(root) / "tokenizers" / name, Path(root) / "tokenizers" / last]
    for folder in here:
        if (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file():
            return _load(str(folder), local=True)
    place = locate(name)
    options = {"revision": place.commit} if place.revision else {}
    try:
        return _load(place.name, local=place.local, **options)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"tokenizer {name!r} is absent ({place.problem or error}). Put its files (tokenizer.json, "
            f"tokenizer_config.json) in REPRO_DATA_DIR/tokenizers/{last}/, give a local folder, or "
            "let transformers fetch it from the hub."
        ) from error


def _load(name: str, local: bool, **options: str | None) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    found = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=local, **options)
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ValueError(f"{type(found).__name__} is no fast tokenizer")
    return found
