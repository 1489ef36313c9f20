"""A generated body of knowledge: many small facts of several topics, told in a syntax that the topics share.

1,024 facts (subject, relation, object): 8 topics, each with 32 subjects and 4 relations of its own, and for every
relation 16 objects of which each subject has one, at random. What has to be known of a fact is one token, its object:
nothing in the sentence gives it away but the pair of subject and relation, and no fact helps with another. Every fact
is told in 6 wordings; 4 are common to all topics and 2 belong to the topic. So the text holds what all tokens need
(function words, order), what a topic needs, and a thousand separate items, which is what an architecture that
separates common from special knowledge is said to serve.

New facts cannot be known, so what is held out are *sentences*: of every fact one wording, each in its turn, is kept
from training. A model that learns sentences by heart fails there, one that knows the fact and the wording does not.
The training text tells everything 12 times, each time in another order, so that the order cannot be learned by heart.

In ``facts-fresh`` the object is drawn anew every time a sentence is told, held-out ones included: the same words,
wordings and frequencies, and nothing to know. The best loss on an object is there that of its 16 equal chances, log 16
= 2.77 nats.

`Batch.answers` marks the object of every sentence.

The number of facts is what a decoder of two layers, started with weights of a standard deviation of about 0.1, gets to
know within 500 steps of 1,024 words. Of 4,000 facts it knows none by then, nor any with the usual start of 0.02.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.cache import cached, column
from repro.data.tokenizers import word_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

SUBJECTS = 32
OBJECTS = 16
#: How often the training text tells everything.
ROUNDS = 12


class Topic(NamedTuple):
    """A kind of subject, what can be said of it, and how it is said in this topic only."""

    noun: str
    relations: tuple[str, ...]
    wordings: tuple[str, ...]


def _topic(noun: str, relations: str, *wordings: str) -> Topic:
    return Topic(noun, tuple(relations.split()), wordings)


TOPICS = (
    _topic(
        "country", "capital ruler export anthem", "on the map {s} shows for {r} {o} .", "borders of {s} ; {r} {o} ."
    ),
    _topic("river", "source mouth bridge fish", "sail down {s} and the {r} will be {o} .", "waters of {s} ; {r} {o} ."),
    _topic("animal", "prey habitat call colour", "hunters of {s} name as {r} {o} .", "tracks of {s} ; {r} {o} ."),
    _topic("plant", "soil fruit scent use", "where {s} grows the {r} stays {o} .", "leaves of {s} ; {r} {o} ."),
    _topic("metal", "ore colourant alloy finder", "melt {s} and for {r} note {o} .", "lumps of {s} ; {r} {o} ."),
    _topic("writer", "novel teacher rival village", "readers of {s} recall the {r} {o} .", "pages by {s} ; {r} {o} ."),
    _topic("star", "cluster planet season myth", "at night {s} brings the {r} {o} .", "light from {s} ; {r} {o} ."),
    _topic("machine", "maker fuel part noise", "start {s} and the {r} turns {o} .", "wheels of {s} ; {r} {o} ."),
)
#: Wordings of all topics: ``{s}`` subject, ``{t}`` the topic's noun, ``{r}`` relation, ``{o}`` object.
COMMON = (
    "the {r} of {s} is {o} .",
    "as its {r} , {s} has {o} .",
    "{s} is a {t} and its {r} is {o} .",
    "if you ask for the {r} of the {t} {s} , it is {o} .",
)
WORDINGS = len(COMMON) + len(TOPICS[0].wordings)
RELATIONS = len(TOPICS[0].relations)


def names(count: int) -> list[str]:
    """``count`` distinct invented words of three syllables, always the same."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    every = [a + b + c for a in syllables for b in syllables for c in syllables]
    return random.Random("names of facts").sample(every, count)


class Fact(NamedTuple):
    """One item of knowledge, as words."""

    topic: int
    subject: str
    relation: str
    object: str

    def told(self, wording: int) -> str:
        """The sentence in one of the `WORDINGS`."""
        topic = TOPICS[self.topic]
        text = (*COMMON, *topic.wordings)[wording]
        return text.format(s=self.subject, t=topic.noun, r=self.relation, o=self.object)


def pools(subjects: int = SUBJECTS) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Subjects by topic, and objects by topic and relation; no word has two uses."""
    words = iter(names(len(TOPICS) * (subjects + RELATIONS * OBJECTS)))
    objects = [[[next(words) for _ in range(OBJECTS)] for _ in range(RELATIONS)] for _ in TOPICS]
    return [[next(words) for _ in range(subjects)] for _ in TOPICS], objects


def knowledge(seed: int = 0, subjects: int = SUBJECTS) -> list[Fact]:
    """Every fact, by topic, subject and relation. ``subjects``: of each topic."""
    draw = random.Random(f"facts/{subjects}/{seed}")
    who, what = pools(subjects)
    return [
        Fact(t, subject, relation, draw.choice(what[t][r]))
        for t, topic in enumerate(TOPICS)
        for subject in who[t]
        for r, relation in enumerate(topic.relations)
    ]


def vocabulary(subjects: int = SUBJECTS) -> list[str]:
    """All words of all sentences: the shared and the topics' own in alphabetical order, then objects and subjects."""
    texts = [*COMMON, *(w for topic in TOPICS for w in topic.wordings)]
    common = {word for text in texts for word in text.split() if not word.startswith("{")}
    common |= {word for topic in TOPICS for word in (topic.noun, *topic.relations)}
    who, what = pools(subjects)
    return sorted(common) + [o for topic in what for pool in topic for o in pool] + [s for pool in who for s in pool]


def sentences(
    seed: int = 0, subjects: int = SUBJECTS, fresh: bool = False, turn: int = 0
) -> Iterator[tuple[bool, Fact, str]]:
    """Every fact in every wording: whether it is held out, the fact, the sentence. ``turn`` matters to fresh ones."""
    draw = random.Random(f"fresh facts/{subjects}/{seed}/{turn}")
    _, what = pools(subjects)
    for at, fact in enumerate(knowledge(seed, subjects)):
        pool = what[fact.topic][at % RELATIONS]
        # the held-out wording moves on by one from subject to subject, and from relation to relation
        held_out = (at // RELATIONS + at) % WORDINGS
        for wording in range(WORDINGS):
            said = fact._replace(object=draw.choice(pool)) if fresh else fact
            yield wording == held_out, said, said.told(wording)


def facts(
    sequence: int, *, seed: int = 0, limit: int | None = None, subjects: int = SUBJECTS, fresh: bool = False
) -> LanguageData:
    """Sentences about facts, in random order, packed end to end in rows of ``sequence + 1`` words, loss on all words.

    ``limit``: the first so many training sentences only, in their random order. ``subjects``: of each topic. ``seed``
    is that of the data, not of a run. ``fresh``: objects drawn anew for every sentence.
    """
    identity = {"subjects": subjects, "seed": seed, "fresh": fresh}
    table = cached("facts", identity, __name__, lambda: _build(subjects, seed, fresh))
    ids, marks, lengths, kept = (column(table, name) for name in ("ids", "marks", "length", "held_out"))
    ends = np.cumsum(lengths)
    train = int((~kept.astype(bool)).sum())
    border = int(ends[train - 1])
    used = int(ends[min(train, limit or train) - 1])

    def split(stream: slice) -> TokenRows:
        return TokenRows(
            torch.from_numpy(ids[stream].astype(np.int16)), sequence, torch.from_numpy(marks[stream].astype(np.uint8))
        )

    count = len(TOPICS) * subjects * RELATIONS
    return LanguageData(
        name="facts-fresh" if fresh else "facts",
        train=split(slice(0, used)),
        held_out=split(slice(border, None)),
        tokenizer=word_tokenizer(vocabulary(subjects)),
        source="generated",
        description=f"Sentences in {WORDINGS} wordings about {count:,} subject-relation pairs of {len(TOPICS)} topics; "
        + ("the object is drawn anew for every sentence" if fresh else "each has one object")
        + "; of every pair one wording is held out.",
        details={"facts": 0 if fresh else count, "objects": OBJECTS, "data_seed": seed, "limit": limit},
    )


def facts_fresh(
    sequence: int, *, seed: int = 0, limit: int | None = None, subjects: int = SUBJECTS
) -> LanguageData:  # fmt: skip
    """`facts` in which nothing can be known: every sentence has an object of its own."""
    return facts(sequence, seed=seed, limit=limit, subjects=subjects, fresh=True)


def _build(subjects: int, seed: int, fresh: bool) -> Dataset:
    from datasets import Dataset

    index = {word: at for at, word in enumerate(("<pad>", "<eos>", "<unk>", *vocabulary(subjects)))}
    order = random.Random(f"order of facts/{seed}")
    told: list[tuple[bool, Fact, str]] = []
    for turn in range(ROUNDS + 1):  # the last one for what is held out
        part = [one for one in sentences(seed, subjects, fresh, turn) if one[0] == (turn == ROUNDS)]
        order.shuffle(part)
        told += part
    columns: dict[str, list[Any]] = {"ids": [], "marks": [], "length": [], "held_out": []}
    for held_out, fact, text in told:
        words = text.split()
        columns["ids"].append([index[word] for word in words])
        columns["marks"].append([int(word == fact.object) for word in words])
        columns["length"].append(len(words))
        columns["held_out"].append(int(held_out))
    return Dataset.from_dict(columns)
