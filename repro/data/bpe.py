"""Byte-level byte-pair encoding learned here: a small vocabulary for small models, lossless on any text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.data.cache import cache_dir
from repro.data.tokenizers import EOS, PAD
from repro.records.provenance import code_hash, run_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_bpe(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al., 2016) over bytes with GPT-2's cut into words.

    Ids: ``<pad>`` 0, ``<eos>`` 1, the 256 bytes, then the merges in the order learned. The same texts give the same
    tokenizer. Raises ValueError when ``vocab`` leaves no room for the bytes, or the texts have too few pairs for it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab < 258:
        raise ValueError(f"256 bytes and two special tokens do not fit into a vocabulary of {vocab}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} tokens, not {vocab}")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, padding_side="left", pad_token=PAD,
        eos_token=EOS,
    )  # fmt: skip


def cached_bpe(name: str, identity: str, texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """`train_bpe`, kept under the cache folder and read back the next time.

    ``identity``: hash of the texts, which are read only when the tokenizer is not there yet. A file that cannot be read
    is made again.
    """
    from transformers import PreTrainedTokenizerFast

    key = run_key({"texts": identity, "vocab": vocab, "code": code_hash(__name__)})
    place = cache_dir() / "tokenizers" / f"{name}-{vocab}-{key}"
    if (place / "tokenizer.json").is_file():
        try:
            return PreTrainedTokenizerFast.from_pretrained(place)
        except Exception:  # a damaged cache is no reason to fail
            (place / "tokenizer.json").unlink(missing_ok=True)
    made = train_bpe(texts, vocab)
    place.mkdir(parents=True, exist_ok=True)
    work = place.parent / f".{place.name}.{os.getpid()}"
    made.save_pretrained(work)
    for file in sorted(work.iterdir(), key=lambda f: f.name == "tokenizer.json"):  # the file looked for comes last
        file.replace(place / file.name)
    work.rmdir()
    return PreTrainedTokenizerFast.from_pretrained(place)
