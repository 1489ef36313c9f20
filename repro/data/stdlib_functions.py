"""``stdlib-functions``: the functions of Python's standard library as tokens, with what can be computed from them.

A function is written out anew from its syntax tree, without docstring and comments, and cut by `tokenize`. Identifiers
and strings fall apart into words (at underscores and changes of case, in lower case), so that one piece may be part of
an identifier, of a string or be a keyword: its lexical class has to be read from what stands around it. A *twin* is the
same function with all its identifiers exchanged for others, consistently, keywords, builtins, ``self`` and ``cls`` kept
(a clone of type 2). Splits are by file.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import io
import keyword
import platform
import random
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from repro.data.base import order_seed
from repro.data.cache import cached, column
from repro.data.code import SPLITS, Analysis, CodeData, Names, Pairs, Ragged
from repro.data.stdlib_text import sources

if TYPE_CHECKING:
    from datasets import Dataset

#: Lexical classes of tokens; one that is none of these (line ends, indentation) has none.
CLASSES = ("identifier", "keyword", "operator", "number", "string")
#: Lines of a function, least and most; tokens, least; twins of each.
LINES, LEAST, TWINS = (3, 60), 12, 2
#: Pieces from the beginning of a function among which a name to complete is looked for.
REACH = 44
#: Pieces of the vocabulary beside special tokens and kinds of tree nodes.
PIECES = 4000
SPECIAL = ("<pad>", "<cls>", "<sep>", "<mask>", "<unk>", "<newline>", "<indent>", "<dedent>", "<close>")
PAD, CLS, SEP, MASK, UNKNOWN = range(5)
NO_CLASS = -100
KEPT = frozenset((*keyword.kwlist, *dir(builtins), "self", "cls"))
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|_+|[^\W\d_]+")
_QUOTED = re.compile(r"[a-zA-Z]*('''|\"\"\"|'|\")(.*)\1", re.DOTALL)
#: From Python 3.12 on a formatted string is several tokens.
_FORMATTED = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")}
_LAYOUT = {tokenize.NEWLINE: "<newline>", tokenize.INDENT: "<indent>", tokenize.DEDENT: "<dedent>"}


class Function(NamedTuple):
    """``node``: syntax tree without docstring; ``summary``: first line of the docstring; ``complexity``: cyclomatic."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    summary: str
    complexity: int


class Token(NamedTuple):
    """``kind``: index into `CLASSES`, or `NO_CLASS`."""

    text: str
    kind: int


# --- functions and their complexity ---------------------------------------------------------------------------


def functions_of(source: str) -> list[Function]:
    """The functions and methods of a source, `LINES` long, not those inside other functions. A source that Python
    cannot parse gives none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child)
            elif LINES[0] <= (child.end_lineno or child.lineno) - child.lineno + 1 <= LINES[1]:
                summary = (ast.get_docstring(child) or "").strip().partition("\n")[0].strip()
                if ast.get_docstring(child) is not None:
                    child.body = child.body[1:] or [ast.Pass()]
                found.append(Function(child, summary, cyclomatic_complexity(child)))

    visit(tree)
    return found


def cyclomatic_complexity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """1 and one more for every way to branch (McCabe), by radon's rules: a boolean operator adds its operands less one,
    a loop or ``try`` with ``else`` one more, a comprehension its loops and conditions, a handler one, an ``assert`` one
    whatever is in it. Functions and classes inside do not count."""
    return 1 + sum(_branches(node) for node in function.body)


def _branches(node: ast.AST) -> int:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return 0
    if isinstance(node, ast.Assert):
        return 1
    own = 0
    if isinstance(node, (ast.If, ast.IfExp)):
        own = 1
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
        own = 1 + bool(node.orelse)
    elif isinstance(node, (ast.Try, ast.TryStar)):
        own = len(node.handlers) + bool(node.orelse)
    elif isinstance(node, ast.BoolOp):
        own = len(node.values) - 1
    elif isinstance(node, ast.comprehension):
        own = 1 + len(node.ifs)
    elif isinstance(node, ast.Match):
        own = len(node.cases) - any(
            isinstance(c.pattern, ast.MatchAs) and c.pattern.pattern is None for c in node.cases
        )
    return own + sum(_branches(child) for child in ast.iter_child_nodes(node))


# --- tokens ---------------------------------------------------------------------------------------------------


def tokens_of(node: ast.AST) -> list[Token]:
    """Tokens of Python's own tokenizer, of a tree written out; a string without its quotes; line ends and indentation
    as `SPECIAL` tokens."""
    out = []
    for token in tokenize.generate_tokens(io.StringIO(ast.unparse(node)).readline):
        if token.type in _LAYOUT:
            out.append(Token(_LAYOUT[token.type], NO_CLASS))
        elif token.type in _FORMATTED:
            out.append(Token(token.string, CLASSES.index("string")))
        elif token.type == tokenize.STRING:
            quoted = _QUOTED.fullmatch(token.string)
            out.append(Token(quoted[2] if quoted else token.string, CLASSES.index("string")))
        elif token.type == tokenize.NUMBER:
            out.append(Token(token.string, CLASSES.index("number")))
        elif token.type == tokenize.OP:
            out.append(Token(token.string, CLASSES.index("operator")))
        elif token.type == tokenize.NAME:
            kind = "keyword" if keyword.iskeyword(token.string) else "identifier"
            out.append(Token(token.string, CLASSES.index(kind)))
    return out


def pieces_of(token: Token) -> list[str]:
    """What a token falls apart into: words of an identifier; words of a string between two quotes; else itself."""
    if token.kind == CLASSES.index("identifier"):
        return words_of(token.text)
    if token.kind == CLASSES.index("string"):
        return ['"', *words_of(token.text), '"']
    return [token.text]


def words_of(text: str) -> list[str]:
    """Words in lower case, cut at underscores and changes of case; underscores are words."""
    return [word.lower() for word in _WORD.findall(text)]


def renamed(tokens: Sequence[Token], names: Sequence[str], draw: random.Random) -> list[Token]:
    """A twin: every identifier but those in `KEPT` exchanged for one of ``names``, the same everywhere, no two for
    one."""
    own = [t.text for t in tokens if t.kind == CLASSES.index("identifier") and t.text not in KEPT]
    distinct = list(dict.fromkeys(own))
    table = dict(zip(distinct, draw.sample(names, len(distinct)), strict=True))
    kind = CLASSES.index("identifier")
    return [Token(table.get(t.text, t.text), t.kind) if t.kind == kind else t for t in tokens]


def name_places(tokens: Sequence[Token]) -> list[int]:
    """Where names begin that can be completed, counted in pieces: attributes (after a dot) and what is called (before
    an opening bracket), not those being defined, nor those that begin with an underscore, whose first piece says
    little."""
    identifier, place, found = CLASSES.index("identifier"), 0, []
    for before, token, after in zip((None, *tokens), tokens, (*tokens[1:], None), strict=False):
        if (
            token.kind == identifier
            and not token.text.startswith("_")
            and before is not None
            and before.text not in ("def", "class")
            and (before.text == "." or (after is not None and after.text == "("))
        ):
            found.append(place)
        place += len(pieces_of(token))
    return found


def tree_of(node: ast.AST) -> Iterator[str]:
    """Kinds of the nodes of a tree in depth-first order, ``<close>`` after those with children: what `ast.unparse`
    needs less all names and values."""
    children = [c for c in ast.iter_child_nodes(node) if not isinstance(c, (ast.expr_context, ast.operator))]
    yield f"<{type(node).__name__}>"
    for child in children:
        yield from tree_of(child)
    if children:
        yield "<close>"


# --- the data set ---------------------------------------------------------------------------------------------


def split_of(place: int) -> int:
    """Split of a file by its place among all, as an index into `SPLITS`: of ten files in a row seven, one and two."""
    return (0, 0, 0, 0, 2, 0, 1, 0, 0, 2)[place % 10]


def stdlib_functions(*, limit: int | None = None, root: Path | None = None) -> CodeData:
    """The functions of the standard library. ``limit``: read that many files only, evenly spread.

    The content, hence the fingerprint, depends on the Python version. Raises MissingData when this Python has no
    sources beside it.
    """
    texts = sources(root)
    if limit:
        texts = texts[:: max(1, len(texts) // limit)][:limit]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    identity = {"texts": digest, "pieces": PIECES}
    table = cached("stdlib-functions", identity, __name__, lambda: _build(texts))
    ragged = {
        name: Ragged(torch.from_numpy(column(table, name).astype(np.int32)), _lengths(table, name))
        for name in ("code", "classes", "summary", "tree", "twin_0", "twin_1")
    }
    count = len(table)
    own = [ragged["code"], *(ragged[f"twin_{i}"] for i in range(TWINS))]
    code = Ragged(torch.cat([r.values for r in own]), torch.cat([r.lengths for r in own]))
    split = torch.from_numpy(column(table, "split").astype(np.int64))
    functions = {name: (split == i).nonzero().flatten() for i, name in enumerate(SPLITS)}
    empty = Ragged(torch.empty(0, dtype=torch.int32), torch.zeros(TWINS * count, dtype=torch.long))
    summary = Ragged(ragged["summary"].values, torch.cat([ragged["summary"].lengths, empty.lengths]))
    place = torch.from_numpy(column(table, "name").astype(np.int64))
    twins = torch.arange(count)[:, None] + count * torch.arange(1, TWINS + 1)
    return CodeData(
        name="stdlib-functions",
        code=code,
        summary=summary,
        functions=functions,
        documented={name: rows[summary.lengths[rows] > 2] for name, rows in functions.items()},
        pairs={name: clone_pairs(rows, code.lengths, twins) for name, rows in functions.items()},
        names={name: Names(rows[place[rows] >= 0], place[rows[place[rows] >= 0]]) for name, rows in functions.items()},
        vocab_size=int(max(code.values.max(), ragged["tree"].values.max(), summary.values.max())) + 1,
        pad=PAD,
        mask=MASK,
        first=(CLS,),
        last=(SEP,),
        source="bundled",
        description=f"{count} functions of {len(texts)} source files of Python {platform.python_version()}'s standard "
        "library, split by file.",
        analysis=Analysis(
            ragged["classes"], ragged["tree"], twins, torch.from_numpy(column(table, "complexity").astype(np.int64))
        ),
        details={"files": len(texts), "python": platform.python_version()},
    )


def clone_pairs(functions: torch.Tensor, lengths: torch.Tensor, twins: torch.Tensor) -> Pairs:
    """Two pairs a function: with its first twin (a clone), and with the first twin of the function next in length (no
    clone)."""
    order = functions[lengths[functions].argsort(stable=True)]
    if len(order) < 2:
        none = torch.empty(0, dtype=torch.long)
        return Pairs(none, none, none)
    other = torch.cat([order[1:], order[-2:-1]])
    labels = torch.cat([torch.ones(len(order)), torch.zeros(len(order))]).long()
    return Pairs(order.repeat(2), torch.cat([twins[order, 0], twins[other, 0]]), labels)


def _lengths(table: Dataset, name: str) -> torch.Tensor:
    return torch.from_numpy(column(table, f"{name}_length").astype(np.int64))


def _build(texts: Sequence[str]) -> Dataset:
    from datasets import Dataset

    rows: list[tuple[int, Function, list[Token]]] = []
    seen: set[tuple[Token, ...]] = set()
    for place, text in enumerate(texts):
        split = split_of(place)
        for function in functions_of(text):
            tokens = tokens_of(function.node)
            if len(tokens) >= LEAST and tuple(tokens) not in seen:
                seen.add(tuple(tokens))
                rows.append((split, function, tokens))
    identifier = CLASSES.index("identifier")
    training = [row for row in rows if row[0] == 0] or rows
    names = sorted({t.text for _, _, tokens in training for t in tokens if t.kind == identifier} - KEPT)
    names += [f"name{i}" for i in range(len(names), 300)]
    counts = Counter(piece for _, f, tokens in training for t in tokens for piece in pieces_of(t))
    counts.update(word for _, f, _ in training for word in words_of(f.summary))
    nodes = [f"<{n}>" for n, kind in vars(ast).items() if isinstance(kind, type) and issubclass(kind, ast.AST)]
    common = sorted(counts, key=lambda piece: (-counts[piece], piece))
    vocabulary = list(dict.fromkeys([*SPECIAL, *sorted(nodes), *common]))[: len(SPECIAL) + len(nodes) + PIECES]
    ids = {piece: i for i, piece in enumerate(vocabulary)}

    def encode(pieces: Sequence[str]) -> list[int]:
        return [ids.get(piece, UNKNOWN) for piece in pieces]

    out: dict[str, list] = {name: [] for name in ("code", "classes", "summary", "tree", "twin_0", "twin_1")}
    for place, (_, function, tokens) in enumerate(rows):
        cut = [(piece, t.kind) for t in tokens for piece in pieces_of(t)]
        out["code"].append(encode([piece for piece, _ in cut]))
        out["classes"].append([kind for _, kind in cut])
        out["summary"].append(encode(words_of(function.summary)))
        out["tree"].append(encode(list(tree_of(function.node))))
        for i in range(TWINS):
            twin = renamed(tokens, names, random.Random(order_seed(f"twin {i} of {place}", 0)))
            out[f"twin_{i}"].append(encode([piece for t in twin for piece in pieces_of(t)]))
    chosen = []
    for place, (_, _, tokens) in enumerate(rows):
        known = [at for at in name_places(tokens) if at < REACH and out["code"][place][at] != UNKNOWN]
        chosen.append(random.Random(order_seed(f"name of {place}", 0)).choice(known) if known else -1)
    lengths = {f"{name}_length": [len(row) for row in found] for name, found in out.items()}
    return Dataset.from_dict(
        {
            **out,
            **lengths,
            "split": [split for split, _, _ in rows],
            "complexity": [f.complexity for _, f, _ in rows],
            "name": chosen,
        }
    )
