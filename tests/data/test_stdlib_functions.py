"""Functions of the standard library: what is cut out, how it is cut, and what is counted."""

from __future__ import annotations

import ast
import random
import textwrap

import pytest
import torch

from repro.data.code import Ragged
from repro.data.errors import MissingData, UnknownData
from repro.data.registry import load_code
from repro.data.stdlib_functions import (
    CLASSES,
    CLS,
    KEPT,
    NO_CLASS,
    PAD,
    SEP,
    Token,
    clone_pairs,
    cyclomatic_complexity,
    functions_of,
    pieces_of,
    renamed,
    split_of,
    stdlib_functions,
    tokens_of,
    tree_of,
    words_of,
)
from repro.data.stdlib_text import sources

SOURCE = '''
class Shelf:
    def find_bookByTitle(self, title, limit=10):
        """Look for a title.

        More of it.
        """
        for book in self.books:  # one after another
            if book.title == title and len(book.pages) > limit:
                return f"found {book}"
        return b"none"

    def short(self): return 1
'''


def first(source=SOURCE):
    return functions_of(source)[0]


# --- complexity -----------------------------------------------------------------------------------------------


def complexity(body: str) -> int:
    return cyclomatic_complexity(ast.parse("def f(x):\n" + textwrap.indent(textwrap.dedent(body), "    ")).body[0])


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("return 1", 1),
        ("if x: return 1\nreturn 2", 2),
        ("if x and y: return 1\nreturn 2", 3),
        ("if x and y or z: return 1\nreturn 2", 4),
        ("if x: pass\nelif y: pass\nelse: pass", 3),
        ("for i in x: pass\nelse: pass", 3),
        ("while x: pass", 2),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 4),
        ("with x: pass", 1),
        ("return [i for i in x if i if j]", 4),
        ("assert x and y", 2),
        ("return lambda: 1 if x else 2", 2),
        ("def g():\n    if x: pass", 1),
        ("match x:\n    case 1: pass\n    case _: pass", 2),
    ],
)
def test_complexity_by_hand(body, count):
    assert complexity(body) == count


def test_complexity_is_radon_s():
    visitors = pytest.importorskip("radon.visitors")
    checked = 0
    for text in sources(limit=60):
        for function in functions_of(text):
            visitor = visitors.ComplexityVisitor.from_ast(ast.Module([function.node], []))
            assert function.complexity == visitor.functions[0].complexity, ast.unparse(function.node)
            checked += 1
    assert checked > 300


# --- functions and tokens -------------------------------------------------------------------------------------


def test_functions_of_a_source():
    (found,) = functions_of(SOURCE)  # the other has too few lines
    assert found.summary == "Look for a title."
    assert "Look for" not in ast.unparse(found.node)
    assert found.complexity == 4
    assert functions_of("def f(:") == []
    assert functions_of('def f():\n    """Only\n    this."""')[0].node.body[0].__class__ is ast.Pass


def test_tokens_and_their_classes():
    tokens = tokens_of(first().node)
    kinds = {t.text: CLASSES[t.kind] if t.kind != NO_CLASS else None for t in tokens}
    assert kinds["def"] == kinds["for"] == kinds["and"] == "keyword"
    assert kinds["find_bookByTitle"] == kinds["self"] == kinds["len"] == "identifier"
    assert kinds["10"] == "number"
    assert kinds["=="] == kinds[":"] == "operator"
    assert kinds["none"] == "string"
    assert kinds["<newline>"] is kinds["<indent>"] is kinds["<dedent>"] is None
    assert not any("one after another" in t.text for t in tokens)


def test_words():
    assert words_of("find_bookByTitle") == ["find", "_", "book", "by", "title"]
    assert words_of("HTTPServer2") == ["http", "server", "2"]
    assert words_of("__init__") == ["__", "init", "__"]
    assert pieces_of(Token("Not found", CLASSES.index("string"))) == ['"', "not", "found", '"']
    assert pieces_of(Token("==", CLASSES.index("operator"))) == ["=="]


def test_a_twin_is_the_same_but_for_its_names():
    tokens = tokens_of(first().node)
    names = [f"other{i}" for i in range(40)]
    twin = renamed(tokens, names, random.Random(0))
    assert [t.kind for t in twin] == [t.kind for t in tokens]
    table = {}
    for mine, theirs in zip(tokens, twin, strict=True):
        identifier = mine.kind == CLASSES.index("identifier") and mine.text not in KEPT
        assert (mine.text != theirs.text) == identifier
        assert table.setdefault(mine.text, theirs.text) == theirs.text
    assert len(set(table.values())) == len(table)
    assert table["self"] == "self"
    assert table["len"] == "len"


def test_a_tree_has_no_values():
    kinds = list(tree_of(first().node))
    assert kinds[:2] == ["<FunctionDef>", "<arguments>"]
    assert "<If>" in kinds
    assert not any("book" in kind or "Load" in kind for kind in kinds)
    assert kinds.count("<close>") < len(kinds) / 2


# --- the data set ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(module_cache):
    return stdlib_functions(limit=30)


def test_splits_and_rows(data):
    every = torch.cat(list(data.functions.values()))
    assert len(every.unique()) == len(every) == len(data.analysis.complexity)
    assert len(data.code) == len(data.summary) == 3 * len(every)
    assert min(len(rows) for rows in data.documented.values()) > 0
    assert all(set(data.documented[s].tolist()) <= set(rows.tolist()) for s, rows in data.functions.items())
    assert [split_of(i) for i in range(10)].count(0) == 7
    assert int(data.code.values.max()) < data.vocab_size
    again = stdlib_functions(limit=30)
    assert again.fingerprint == data.fingerprint
    assert data.describe()["train_functions"] == len(data.functions["train"])


def test_a_batch_has_marks_and_padding(data):
    ids = data.batch(data.code, torch.arange(8), 40)
    assert ids.shape == (8, 40)
    assert (ids[:, 0] == CLS).all()
    for row, length in zip(ids, data.code.lengths[:8], strict=True):
        inside = min(int(length), 38)
        assert row[inside + 1] == SEP
        assert (row[inside + 2 :] == PAD).all()
        assert (row[1 : inside + 1] != PAD).all()
    classes = data.token_classes(torch.arange(8), 40)
    assert (classes[ids == PAD] == NO_CLASS).all()
    assert (classes[:, 1] == CLASSES.index("keyword")).all()  # def
    with pytest.raises(ValueError, match="no room"):
        data.batch(data.code, torch.arange(2), 2)


def test_clones_and_others(data):
    pairs, functions = data.pairs["test"], data.functions["test"]
    half = len(functions)
    assert pairs.labels.tolist() == [1] * half + [0] * half
    twin = data.analysis.twins[:, 0]
    assert torch.equal(pairs.right[:half], twin[pairs.left[:half]])
    assert not (pairs.right[half:] == twin[pairs.left[half:]]).any()
    gap = (data.code.lengths[pairs.left[half:]] - data.code.lengths[pairs.right[half:]]).abs().float()
    other = data.code.lengths[functions].float()
    assert gap.median() < (other - other[torch.randperm(half)]).abs().median() / 3
    assert len(clone_pairs(torch.tensor([3]), torch.ones(4), twin[:, None]).labels) == 0


def test_order_is_the_same_for_all_and_differs_by_seed(data):
    one = data.order("train", "documented", 10, 4, 0)
    assert torch.equal(one, data.order("train", "documented", 10, 4, 0))
    assert torch.equal(one[:5], data.order("train", "documented", 5, 4, 0))
    assert not torch.equal(one, data.order("train", "documented", 10, 4, 1))
    assert int(data.order("train", "pairs", 3, 4, 0).max()) < len(data.pairs["train"].labels)


def test_ragged_rows():
    rows = Ragged.of([[1, 2, 3], [], [4]])
    assert rows.take(torch.tensor([2, 0, 1]), 2, 9).tolist() == [[4, 9], [1, 2], [9, 9]]


def test_errors(tmp_path, no_network):
    with pytest.raises(MissingData, match="no standard-library sources"):
        stdlib_functions(root=tmp_path)
    with pytest.raises(UnknownData, match="stdlib-functions"):
        load_code("stdlib-function")
    with pytest.raises(MissingData, match="absent"):
        load_code("code-search-net", tokenizer="microsoft/unixcoder-base")
