"""Data sets by name. A table: adding a line here changes nothing for the data sets that were there before."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from repro.data.errors import UnknownData

if TYPE_CHECKING:
    from repro.data.analytic_scenes import RadianceData
    from repro.data.base import LanguageData, TupleData
    from repro.data.clicks import ClickData
    from repro.data.code import CodeData
    from repro.data.hetero import NodeData
    from repro.data.images import ImageData
    from repro.data.scenes import SceneData
    from repro.data.series import SeriesData


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a data set is made: ``function(sequence, ...)`` of a module for language, ``function(seed)`` for tuples,
    images, scenes, radiance, series, clicks and nodes, ``function(...)`` for functions of code.

    ``seeded``: whether the function takes a seed (of the generation or the split); fixed sets do not.
    """

    module: str
    function: str
    kind: Literal["language", "tuples", "images", "clicks", "nodes", "code", "scenes", "radiance", "series"] = (
        "language"
    )
    seeded: bool = True


ENTRIES = {
    "glyphs": Entry("repro.data.glyphs", "glyphs", "images"),
    "textures": Entry("repro.data.textures", "textures", "images"),
    "digits": Entry("repro.data.digits", "digits", "images"),
    "cluttered": Entry("repro.data.cluttered", "cluttered", "images"),
    "worn-glyphs": Entry("repro.data.worn_glyphs", "worn_glyphs", "images"),
    "scenes": Entry("repro.data.scenes", "scenes", "scenes"),
    "scene-classes": Entry("repro.data.scenes", "scene_classes", "images"),
    "waves": Entry("repro.data.waves", "waves", "images"),
    "imagenet-latents": Entry("repro.data.latents", "imagenet_latents", "images"),
    "composition": Entry("repro.data.tuples", "composition", "tuples"),
    "lookup": Entry("repro.data.tuples", "lookup", "tuples"),
    "lookup-joint": Entry("repro.data.tuples", "lookup_joint", "tuples"),
    "word-problems": Entry("repro.data.word_problems", "word_problems"),
    "stdlib": Entry("repro.data.stdlib", "stdlib", seeded=False),
    "mnist": Entry("repro.data.hub_images", "mnist", "images"),
    "cifar10": Entry("repro.data.hub_images", "cifar10", "images"),
    "cifar100": Entry("repro.data.hub_images", "cifar100", "images"),
    "gsm8k": Entry("repro.data.hub", "gsm8k", seeded=False),
    "metamath": Entry("repro.data.hub", "metamath"),
    "slimpajama": Entry("repro.data.hub", "slimpajama", seeded=False),
    "facts": Entry("repro.data.facts", "facts"),
    "facts-fresh": Entry("repro.data.facts", "facts_fresh"),
    "two-hop": Entry("repro.data.multi_hop", "two_hop"),
    "parallel-two-hop": Entry("repro.data.multi_hop", "parallel_two_hop"),
    "three-hop": Entry("repro.data.multi_hop", "three_hop"),
    "non-tree": Entry("repro.data.multi_hop", "non_tree"),
    "stdlib-bpe": Entry("repro.data.stdlib_text", "stdlib_bpe", seeded=False),
    "stdlib-prose": Entry("repro.data.stdlib_text", "stdlib_prose", seeded=False),
    "c4": Entry("repro.data.c4", "c4", seeded=False),
    "recall": Entry("repro.data.recall", "recall"),
    "recall-stdlib": Entry("repro.data.recall", "recall_stdlib"),
    "domains": Entry("repro.data.domains", "domains"),
    "domains-mixed": Entry("repro.data.domains", "domains_mixed"),
    "slimpajama-domains": Entry("repro.data.domains", "slimpajama_domains", seeded=False),
    "stdlib-cipher": Entry("repro.data.shifted", "stdlib_cipher"),
    "stdlib-instructions": Entry("repro.data.instructions", "stdlib_instructions", seeded=False),
    "alpaca-gpt4": Entry("repro.data.instructions", "alpaca_gpt4"),
    "clicks": Entry("repro.data.clicks", "clicks", "clicks"),
    "clicks-even": Entry("repro.data.clicks", "clicks_even", "clicks"),
    "token-kinds": Entry("repro.data.token_kinds", "token_kinds", "clicks"),
    "movielens": Entry("repro.data.click_logs", "movielens", "clicks"),
    "avazu": Entry("repro.data.click_logs", "avazu", "clicks"),
    "criteo": Entry("repro.data.click_logs", "criteo", "clicks"),
    "bibliographic": Entry("repro.data.bibliographic", "bibliographic", "nodes"),
    "dblp": Entry("repro.data.hetero_files", "dblp", "nodes"),
    "imdb-graph": Entry("repro.data.hetero_files", "imdb", "nodes"),
    "acm": Entry("repro.data.hetero_files", "acm", "nodes"),
    "stdlib-functions": Entry("repro.data.stdlib_functions", "stdlib_functions", "code", seeded=False),
    "code-search-net": Entry("repro.data.code_hub", "code_search_net", "code", seeded=False),
    "big-clone-bench": Entry("repro.data.code_hub", "big_clone_bench", "code", seeded=False),
    "analytic-scene": Entry("repro.data.analytic_scenes", "analytic_scene", "radiance"),
    "blender-scene": Entry("repro.data.blender_scenes", "blender_scene", "radiance"),
    "series-corpus": Entry("repro.data.series", "corpus", "series"),
}
#: Names that `load` knows.
DATA_SETS = tuple(ENTRIES)


def place_of(name: str) -> tuple[str, str] | None:
    """Dotted name of the module that makes a data set, and its function there; None for a name that is not here."""
    entry = ENTRIES.get(name)
    return (entry.module, entry.function) if entry else None


def module_of(name: str) -> str | None:
    """Dotted name of the module that makes a data set; None for a name that is not here."""
    place = place_of(name)
    return place[0] if place else None


def load(
    name: str, sequence: int = 128, *, seed: int = 0, limit: int | None = None, **options: Any
) -> LanguageData | TupleData:
    """The data set ``name`` of tokens, language or tuples; tuples have no use for ``sequence`` and ``limit``.

    Raises UnknownData (a ValueError) for a name that is not in `DATA_SETS`, and what the two loaders raise.
    """
    if _of_kind(name, "tuples"):
        return load_tuples(name, seed=seed)
    return load_language(name, sequence, seed=seed, limit=limit, **options)


def load_language(name: str, sequence: int, *, seed: int = 0, limit: int | None = None, **options: Any) -> LanguageData:
    """A language-modelling data set with rows of ``sequence`` predictions.

    ``seed`` belongs to the data (generation or split), not to a run: arms and seeds that are compared share it.
    ``limit`` bounds the training items (word-problems, gsm8k, metamath), documents (slimpajama) or files (stdlib).
    ``options`` are those of the data set's own function (tokenizer, revision...).

    Raises UnknownData for an unknown name, MissingData for real data that is not at hand, ValueError when the data do
    not fill one row.
    """
    if not _of_kind(name, "language"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "language")])
    if ENTRIES[name].seeded:
        options["seed"] = seed
    return _function(name)(sequence, limit=limit, **options)


def load_tuples(name: str, *, seed: int = 0) -> TupleData:
    """A task on tuples of symbols. ``seed`` is the seed of the task. Raises UnknownData for an unknown name."""
    if not _of_kind(name, "tuples"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "tuples")])
    return _function(name)(seed)


def load_images(name: str, *, seed: int = 0, **options: Any) -> ImageData:
    """A classification task on images. ``seed`` is the seed of the task. Raises UnknownData for an unknown name."""
    if not _of_kind(name, "images"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "images")])
    return _function(name)(seed, **options)


def load_scenes(name: str, *, seed: int = 0, **options: Any) -> SceneData:
    """Scenes with the ground truth of dense tasks and detection. ``seed`` is the seed of the generation. Raises
    UnknownData for an unknown name."""
    if not _of_kind(name, "scenes"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "scenes")])
    return _function(name)(seed, **options)


def load_clicks(name: str, *, seed: int = 0, **options: Any) -> ClickData:
    """A task of click prediction. ``seed``: of the task or of its split. Raises UnknownData for an unknown name."""
    if not _of_kind(name, "clicks"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "clicks")])
    return _function(name)(seed, **options)


def load_nodes(name: str, *, seed: int = 0, **options: Any) -> NodeData:
    """Classification of nodes of a graph. ``seed`` is the seed of the generation or the split. Raises UnknownData for
    an unknown name."""
    if not _of_kind(name, "nodes"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "nodes")])
    return _function(name)(seed, **options)


def load_code(name: str, **options: Any) -> CodeData:
    """Functions of source code, with the options of the data set's own function. Raises UnknownData for an unknown
    name, MissingData for real data that is not at hand."""
    if not _of_kind(name, "code"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "code")])
    return _function(name)(**options)


def load_radiance(name: str, *, seed: int = 0, **options: Any) -> RadianceData:
    """Pictures of a scene from known cameras. ``seed`` is the seed of the scene, or of what is held out. Raises
    UnknownData for an unknown name, MissingData for real data that is not at hand."""
    if not _of_kind(name, "radiance"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "radiance")])
    return _function(name)(seed, **options)


def load_series(name: str, *, seed: int = 0, **options: Any) -> SeriesData:
    """Time series to train on and windows to forecast. ``seed`` is the seed of the generation. Raises UnknownData for
    an unknown name."""
    if not _of_kind(name, "series"):
        raise UnknownData(name, [n for n in ENTRIES if _of_kind(n, "series")])
    return _function(name)(seed, **options)


def _of_kind(name: str, kind: str) -> bool:
    return name in ENTRIES and ENTRIES[name].kind == kind


def _function(name: str) -> Any:
    entry = ENTRIES[name]
    return getattr(import_module(entry.module), entry.function)
