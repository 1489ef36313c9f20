"""Which definitions of the project a function can reach, and a hash of their content.

A record is stale when the code that made it has changed. To count whole modules would make every record stale with each
edit of a shared module; what matters is what a run can reach: the statements at the top of modules that its entry
refers to, directly or not, and those that run because a module is imported. The hash is of syntax trees without
docstrings and of what each name in them refers to. The places of definitions do not count, so that moving one to
another module changes nothing.

References are followed without running anything, so what is found by a computed name (``getattr(module, name)``) is not
seen. A module that is used as a value, and not for one of its attributes, counts whole. What a registry gives out by
name is followed where a constant has that name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.data.registry import ENTRIES

Node = tuple[str, int]
"""A statement: its module and its place among the module's statements."""

#: Decorators that only change the definition they stand on; any other may do something when the module is imported.
_PURE = {
    "dataclass", "lru_cache", "cache", "contextmanager", "no_grad", "inference_mode", "runtime_checkable", "final",
    "overload", "total_ordering", "once_differentiable",
}  # fmt: skip


@dataclass
class _Statement:
    tree: ast.stmt
    package: str
    #: Whether it does something when its module is imported, beside binding names.
    effect: bool

    @functools.cached_property
    def text(self) -> str:
        """Hash of its syntax tree."""
        return hashlib.sha256(_dump(self.tree).encode()).hexdigest()

    @functools.cached_property
    def reads(self) -> list[tuple[str, ...]]:
        """Dotted names that it reads, as they are written: ``("dispatch", "naive")``."""
        return sorted(set(_reads([self.tree])))

    @functools.cached_property
    def strings(self) -> list[str]:
        """The strings in it."""
        nodes = (n.value for n in ast.walk(self.tree) if isinstance(n, ast.Constant))
        return sorted({value for value in nodes if isinstance(value, str)})

    @functools.cached_property
    def signature(self) -> list[tuple[str, ...]]:
        """What a function's arguments are annotated with."""
        if not isinstance(self.tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return []
        arguments = (a for a in ast.walk(self.tree.args) if isinstance(a, ast.arg))
        return sorted(set(_reads([a.annotation for a in arguments if a.annotation])))

    @functools.cached_property
    def imports(self) -> tuple[dict[str, tuple[str, str]], list[str]]:
        """What import statements inside it bind, and the modules that they import."""
        return imports(self.tree, self.package)


@dataclass
class _Module:
    name: str
    statements: list[_Statement] = field(default_factory=list)
    #: Name to the statements that bind it.
    bound: dict[str, list[int]] = field(default_factory=dict)
    #: Name to module and attribute (empty: the module itself).
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Modules that importing this one imports.
    enters: list[str] = field(default_factory=list)
    files: bytes = b""


class Reach:
    """The definitions that roots reach in a tree of modules.

    Args:
        root: folder that holds the packages.
        packages: names of the top-level packages that are followed.
        outside: prefixes of modules that are not followed: they cannot change what a run computes.
        named: names that a registry knows, each with the module and the definition that it stands for.
        naming: prefixes of the modules in which a string that is such a name refers to it, where it stands in a
            statement that only binds names, a table say; elsewhere code may do no more than compare it.
    """

    def __init__(
        self,
        root: Path,
        packages: tuple[str, ...] = ("repro", "papers"),
        outside: tuple[str, ...] = (),
        named: Mapping[str, tuple[str, str]] | None = None,
        naming: tuple[str, ...] = (),
    ):
        self.root, self.packages, self.outside, self.naming = root, packages, outside, naming
        self.named = named or {}
        self._modules: dict[str, _Module | None] = {}

    def hash(self, roots: Iterable[tuple[str, str]]) -> str:
        """Hash of what ``roots`` reach, 16 hex digits.

        Args:
            roots: modules, each with the name of a definition there; an empty name stands for the whole module.

        Raises FileNotFoundError for a root that is not there.
        """
        lines = self._follow(roots, set())
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

    def names(self, roots: Iterable[tuple[str, str]]) -> list[str]:
        """Dotted names of the definitions that ``roots`` reach, sorted."""
        reached: set[Node] = set()
        self._follow(roots, reached)
        found: set[str] = set()
        for name, place in reached:
            module = self.module(name)
            assert module is not None
            found |= {f"{name}.{bound}" for bound, places in module.bound.items() if place in places}
        return sorted(found)

    def _follow(self, roots: Iterable[tuple[str, str]], reached: set[Node]) -> set[str]:
        """A line for each thing reached, its content and what its names refer to; ``reached`` takes the statements."""
        entered: set[str] = set()
        queue: list[Node] = []
        lines: set[str] = set()
        first: set[Node] = set()

        def enter(name: str) -> None:
            todo = [name]
            while todo:
                name = todo.pop()
                parent = name.rpartition(".")[0]
                if name in entered or not self._inside(name):
                    continue
                entered.add(name)
                todo.append(parent)
                if (module := self.module(name)) is None:
                    continue
                if module.files:
                    lines.add(hashlib.sha256(module.files).hexdigest())
                queue.extend((name, i) for i, s in enumerate(module.statements) if s.effect)
                todo.extend(module.enters)

        for name, attribute in roots:
            found = self.resolve(name, attribute) if attribute else self._whole(name)
            if not found:
                raise FileNotFoundError(f"no source of {'.'.join(filter(None, (name, attribute)))} under {self.root}")
            enter(name)
            queue += found
            if attribute:
                first |= set(found)
        while queue:
            node = queue.pop()
            if node in reached:
                continue
            reached.add(node)
            name, place = node
            enter(name)
            module = self.module(name)
            assert module is not None
            statement = module.statements[place]
            for other in statement.imports[1]:
                enter(other)
            edges = []
            # whoever calls a root makes its arguments: their classes count though nothing here names them in a body
            for written in [*statement.reads, *(statement.signature if node in first else ())]:
                if targets := self._read(module, statement, written):
                    edges.append(f"{'.'.join(written)}>{','.join(sorted(self._text(t) for t in targets))}")
                    queue += targets
            if isinstance(statement.tree, (ast.Assign, ast.AnnAssign)) and _below(name, self.naming):
                for said in sorted(self.named.keys() & statement.strings):
                    targets = self.resolve(*self.named[said])
                    edges.append(f"'{said}'>{','.join(sorted(self._text(t) for t in targets))}")
                    queue += targets
            lines.add(f"{statement.text} {' '.join(edges)}")
        return lines

    def _text(self, node: Node) -> str:
        module = self.module(node[0])
        assert module is not None
        return module.statements[node[1]].text

    def _read(self, module: _Module, statement: _Statement, written: tuple[str, ...]) -> list[Node]:
        """What a dotted name means in a statement of a module."""
        first, *rest = written
        if first in statement.imports[0]:
            return self._along(*statement.imports[0][first], rest)
        if first in module.bound:
            return [(module.name, i) for i in module.bound[first]]
        if first in module.imported:
            return self._along(*module.imported[first], rest)
        return []

    def _along(self, name: str, attribute: str, rest: list[str]) -> list[Node]:
        """The definitions behind ``name.attribute.rest``, as far as ``rest`` leads through modules."""
        parts = [*([attribute] if attribute else []), *rest]
        while parts:
            if not self._inside(name):
                return []
            module = self.module(name)
            own = module is not None and module.imported.get(parts[0]) != (name, parts[0])  # not "from . import part"
            if not (own and module and self._binds(module, parts[0])) and self._source(f"{name}.{parts[0]}"):
                name, parts = f"{name}.{parts[0]}", parts[1:]
                continue
            if module is not None and parts[0] in module.imported and parts[0] not in module.bound:
                (name, attribute), parts = module.imported[parts[0]], parts[1:]
                parts = [*([attribute] if attribute else []), *parts]
                continue
            return self.resolve(name, parts[0])
        return self._whole(name)

    def resolve(self, name: str, attribute: str) -> list[Node]:
        """The statements that define ``attribute`` of a module, wherever it was imported from."""
        module = self.module(name) if self._inside(name) else None
        if module is None:
            return []
        if attribute in module.bound:
            return [(name, i) for i in module.bound[attribute]]
        if attribute in module.imported:
            return self._along(*module.imported[attribute], [])
        if self._source(f"{name}.{attribute}"):
            return self._whole(f"{name}.{attribute}")
        return [(name, i) for i in module.bound.get("__getattr__", [])]

    def _whole(self, name: str) -> list[Node]:
        module = self.module(name) if self._inside(name) else None
        return [(name, i) for i in range(len(module.statements))] if module else []

    @staticmethod
    def _binds(module: _Module, name: str) -> bool:
        return name in module.bound or name in module.imported

    def _inside(self, name: str) -> bool:
        package, _, below = name.partition(".")
        return package in self.packages and (not below or not _below(name, self.outside))

    def _source(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        return None

    def module(self, name: str) -> _Module | None:
        """A module's statements and names; None where there is no source."""
        if name not in self._modules:
            path = self._source(name)
            self._modules[name] = None if path is None else _parse(name, path)
        return self._modules[name]


def _below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _parse(name: str, path: Path) -> _Module:
    tree = ast.parse(path.read_bytes())
    strip_docstrings(tree)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    out = _Module(name)
    if path.name == "__init__.py":
        out.files = b"".join(file.read_bytes() for file in sorted(path.parent.glob("*.yaml")))
    for tree_of in tree.body:
        statement = _Statement(tree_of, package, _does(tree_of))
        if isinstance(tree_of, ast.If) and _for_types(tree_of.test):
            out.imported |= statement.imports[0]
        elif statement.effect:
            # an import, or a block that may hold some
            out.imported |= statement.imports[0]
            out.enters += statement.imports[1]
        if isinstance(tree_of, (ast.Import, ast.ImportFrom)) or (
            isinstance(tree_of, ast.If) and _for_types(tree_of.test)
        ):
            continue
        for bound in _bound(tree_of):
            out.bound.setdefault(bound, []).append(len(out.statements))
        out.statements.append(statement)
    return out


def _does(statement: ast.stmt) -> bool:
    """Whether a statement does something when its module is imported, beside binding names."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return any(_decorator(d) not in _PURE for d in statement.decorator_list)
    if isinstance(statement, ast.Assign):
        return not all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in statement.targets)
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return not isinstance(statement.target, ast.Name)
    return True


def _dump(node: object) -> str:
    """A syntax tree as text, the same on all versions of Python: what is absent or empty is left out, and so are fields
    that later versions add and that are not used."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in sorted(node._fields) if name != "kind")
        inside = ",".join(f"{name}={_dump(value)}" for name, value in fields if value not in (None, []))
        # Constant(value=None) and an absent field are told apart by the kind of the node alone
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def _for_types(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _decorator(node: ast.expr) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    # a block: what any of its branches binds
    found = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return found | {n.name for n in ast.walk(statement) if isinstance(n, kinds)}


def _reads(trees: Iterable[ast.AST]) -> Iterator[tuple[str, ...]]:
    """Dotted names that code reads. What functions annotate is not evaluated and left out."""
    stack = list(trees)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Attribute):
            names = [node.attr]
            inner: ast.expr = node.value
            while isinstance(inner, ast.Attribute):
                names.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                yield (inner.id, *reversed(names))
            else:
                stack.append(inner)
            continue
        if isinstance(node, ast.Name):
            yield (node.id,)
        elif isinstance(node, ast.Global):
            yield from ((name,) for name in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            decorated = any(_decorator(d) not in _PURE for d in node.decorator_list)
            arguments = node.args
            stack += [*node.body, *node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)]
            if decorated:  # a decorator may read what is annotated
                stack += [a.annotation for a in ast.walk(arguments) if isinstance(a, ast.arg) and a.annotation]
                stack += [node.returns] if node.returns else []
            continue
        stack.extend(ast.iter_child_nodes(node))


def imports(statement: ast.AST, package: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """What the import statements in a piece of code bind (name to module and attribute, empty for the module itself),
    and the modules that they import; relative imports are of ``package``."""
    binds: dict[str, tuple[str, str]] = {}
    enters: list[str] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            for alias in node.names:
                enters.append(alias.name)
                binds[alias.asname or alias.name.partition(".")[0]] = (
                    (alias.name, "") if alias.asname else (alias.name.partition(".")[0], "")
                )
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            enters.append(base)
            for alias in node.names:
                enters.append(f"{base}.{alias.name}")
                binds[alias.asname or alias.name] = (base, alias.name)
    return binds, enters


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a ``from ... import`` names, its leading dots resolved in ``package``."""
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
    return base


def strip_docstrings(tree: ast.AST) -> None:
    """Remove the docstrings of a module, its classes and functions, in place."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]


@functools.lru_cache(maxsize=4)
def reach(root: Path, outside: tuple[str, ...], naming: tuple[str, ...]) -> Reach:
    """One `Reach` for a tree, with the data sets by name: modules are read once."""
    named = {name: (entry.module, entry.function) for name, entry in ENTRIES.items()}
    return Reach(root, outside=outside, named=named, naming=naming)
