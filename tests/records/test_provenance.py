"""A record goes stale when the code that made it changes, and only then."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from repro import report
from repro.papers import load_paper, slugs
from repro.records import provenance
from repro.records.definitions import Reach
from repro.records.provenance import (
    code_hash,
    commit,
    entry_code,
    environment,
    file_fingerprint,
    reached,
    run_code,
    run_key,
)
from tests.leaderboard import synthetic

EXPERIMENT = '''"""Doc."""
from papers.x import method
from papers.x.paper import Config
from repro.models import block

def run(config: Config):
    """Says one."""
    return method.half * block()

def other():
    return 1
'''
PAPER = '''"""Facts."""
from repro.claims import rule

WIDTH = 4

class Config:
    """Options."""
    width = WIDTH

def gain():
    return rule

CLAIMS = (1, gain())
'''
TREE = {
    "papers/__init__.py": "",
    "papers/x/__init__.py": "",
    "papers/x/paper.py": PAPER,
    "papers/x/experiment.py": EXPERIMENT,
    "papers/x/method.py": "from .part import half\n",
    "papers/x/part.py": "import repro.training.loop\nhalf = repro.training.loop.STEP\nthird = 0.3\n",
    "papers/x/unused.py": "x = 1\n",
    "repro/__init__.py": "",
    "repro/claims/__init__.py": "rule = 1\n",
    "repro/models/__init__.py": "from repro.models.block import block\n",
    "repro/models/block.py": "def block():\n    from repro.models import deep\n    return deep.depth\nspare = 1\n",
    "repro/models/deep.py": "depth = 3\nheight = 4\n",
    "repro/training/__init__.py": "",
    "repro/training/loop.py": "from ..models import extra\nfrom repro.claims import rule\nSTEP = extra.one\n",
    "repro/models/extra.py": "from repro.models.table import ONE as one\n",
    "repro/models/table.py": "import repro.models.effects\nONE = 1\n",
    "repro/models/effects.py": "switch = {}\nswitch['on'] = 1\n",
}


@pytest.fixture
def tree(tmp_path):
    """Hash of what the experiment's entry reaches, with some files of the tree replaced."""

    def hashed(files: dict[str, str] | None = None, root: tuple[str, str] = ("papers.x.experiment", "run")) -> str:
        for path, content in {**TREE, **(files or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return Reach(tmp_path, outside=("repro.claims",)).hash([root])

    return hashed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("papers/x/experiment.py", EXPERIMENT.replace("Doc.", "Other words.")),
        ("papers/x/experiment.py", EXPERIMENT + "\n# a comment\n"),
        ("papers/x/experiment.py", EXPERIMENT.replace("* block()", "* (block())")),
        ("papers/x/experiment.py", EXPERIMENT.replace("Says one.", "Says two.")),
        ("papers/x/experiment.py", EXPERIMENT.replace("return 1", "return 2")),
        ("papers/x/paper.py", PAPER.replace("(1, gain())", "(2, gain())")),
        ("papers/x/paper.py", PAPER.replace("return rule", "return 2 * rule")),
        ("papers/x/paper.py", PAPER.replace("Options.", "Choices.")),
        ("papers/x/unused.py", "x = 2\n"),
        ("papers/x/part.py", TREE["papers/x/part.py"].replace("0.3", "0.4")),
        ("repro/models/block.py", TREE["repro/models/block.py"].replace("spare = 1", "spare = 2")),
        ("repro/models/deep.py", TREE["repro/models/deep.py"].replace("height = 4", "height = 5")),
        ("repro/training/__init__.py", "import os\n"),
        ("repro/claims/__init__.py", "rule = 2\n"),
    ],
)
def test_what_the_run_does_not_reach_keeps_the_hash(tree, name, text):
    assert tree({name: text}) == tree()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("papers/x/experiment.py", EXPERIMENT.replace("* block", "+ block"), id="the entry itself"),
        pytest.param("papers/x/experiment.py", EXPERIMENT.replace("models import", "models.deep import depth as"),
                     id="what a name refers to"),
        pytest.param("papers/x/part.py", TREE["papers/x/part.py"].replace("STEP", "STEP * 2"), id="relative import"),
        pytest.param("repro/models/__init__.py", "def block():\n    return 3\n", id="package init"),
        pytest.param("repro/models/block.py", TREE["repro/models/block.py"].replace("depth", "height"),
                     id="through a package init"),
        pytest.param("repro/models/deep.py", "depth = 4\nheight = 4\n", id="import inside a function"),
        pytest.param("repro/training/loop.py", TREE["repro/training/loop.py"] + "STEP = 2\n", id="import a.b.c"),
        pytest.param("repro/models/table.py", TREE["repro/models/table.py"] + "ONE = 2\n", id="under another name"),
        pytest.param("repro/models/effects.py", "switch = {}\nswitch['on'] = 2\n", id="what importing does"),
        pytest.param("repro/training/__init__.py", "import os\nos.nice(0)\n", id="what a package does"),
        pytest.param("papers/x/unused.py", "", id="nothing"),
        pytest.param("papers/x/paper.py", PAPER.replace("width = WIDTH", "width = 2 * WIDTH"), id="configuration"),
        pytest.param("papers/x/paper.py", PAPER.replace("WIDTH = 4", "WIDTH = 5"), id="what the configuration reads"),
    ],
)  # fmt: skip
def test_what_the_run_reaches_changes_the_hash(tree, name, text):
    assert (tree({name: text}) != tree()) == (name != "papers/x/unused.py")


def test_a_definition_can_move(tree):
    """The place of a definition is no part of what it computes."""
    moved = {"repro/models/table.py": "from repro.models.elsewhere import ONE\n",
             "repro/models/elsewhere.py": "import repro.models.effects\nONE = 1\n"}  # fmt: skip
    assert tree(moved) == tree()
    moved["repro/models/elsewhere.py"] = "ONE = 1\n"  # and no longer does what importing it did
    assert tree(moved) != tree()


def test_two_definitions_that_change_places_do_not_go_unseen(tree):
    """The same definitions are reached, but each name now means the other."""
    codes = []
    for names in ("one as a, two as b", "one as b, two as a"):
        block = f"from repro.models.deep import {names}\ndef block():\n    return a() - b()\n"
        deep = "depth = height = 3\ndef one():\n    return 1\ndef two():\n    return 2\n"
        codes.append(tree({"repro/models/block.py": block, "repro/models/deep.py": deep}))
    assert codes[0] != codes[1]


def test_a_module_used_as_a_value_counts_whole(tree):
    block = "from repro.models import deep\ndef block():\n    return getattr(deep, 'dep' + 'th')\n"
    whole = {"repro/models/block.py": block}
    assert tree(whole) != tree({**whole, "repro/models/deep.py": "depth = 3\nheight = 5\n"})
    assert tree(root=("papers.x.experiment", "")) != tree(
        {"papers/x/experiment.py": EXPERIMENT.replace("return 1", "return 2")}, ("papers.x.experiment", "")
    )


def test_a_name_that_a_lazy_package_gives_out_is_followed(tree):
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from repro.models.block import block\n"
    lazy = {"repro/models/__init__.py": checked + "def __getattr__(name):\n    return name\n"}
    assert tree(lazy) != tree({**lazy, "repro/models/deep.py": "depth = 4\nheight = 4\n"})


def test_a_module_that_imports_from_its_own_package_ends(tree):
    assert tree({"repro/models/__init__.py": "from . import block as part\nfrom . import block\nblock = block.block\n"})


def test_annotations_of_what_is_called_do_not_tie(tree):
    """An argument's class counts where the object is made."""
    typed = {"repro/models/block.py": "from __future__ import annotations\nfrom repro.models.deep import Deep\n"
             "def block(x: Deep | None = None):\n    return 1\n",
             "repro/models/deep.py": "class Deep:\n    depth = 1\n"}  # fmt: skip
    assert tree(typed) == tree({**typed, "repro/models/deep.py": "class Deep:\n    depth = 2\n"})


def test_task_files_beside_a_package_count(tree, tmp_path):
    before = tree()
    (tmp_path / "repro" / "models" / "task.yaml").write_text("a: 1\n")
    assert tree() != before


def test_a_string_that_a_registry_knows_is_what_it_names(tree, tmp_path):
    files = {"repro/models/block.py": "TABLE = {'a': 'deep one'}\ndef block():\n    return load(TABLE['a'])\n"}
    before = tree(files)
    for naming, seen in ((("repro.models",), True), (("papers",), False)):
        made = Reach(tmp_path, named={"deep one": ("repro.models.deep", "depth")}, naming=naming)
        assert ("repro.models.deep.depth" in made.names([("papers.x.experiment", "run")])) == seen
        assert (made.hash([("papers.x.experiment", "run")]) != before) == seen


def test_what_a_run_of_a_paper_reaches():
    names = reached("papers.coe.experiment.run")
    assert {"papers.coe.paper.Config", "papers.coe.method.ChainOfExperts", "repro.models.dispatch._Lean",
            "repro.training.loop.train"} <= {*names}  # fmt: skip
    assert not any("Claim" in n or n.endswith((".CLAIMS", ".PAPER")) for n in names)


def test_an_absent_module_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        code_hash("papers.nowhere.experiment", tmp_path)


def test_keys_depend_on_content_and_not_on_order():
    assert run_key({"a": 1, "b": {"c": 2, "d": 3}}) == run_key({"b": {"d": 3, "c": 2}, "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 2})
    assert len(run_key({})) == 20


def test_fingerprints_are_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b") == "ba7816bf8f01cfea"


def test_the_environment_is_plain_and_names_no_person_or_place(tmp_path):
    import getpass
    import socket

    text = json.dumps(environment())
    assert "python" in environment()["versions"]
    for secret in {socket.gethostname(), str(tmp_path), getpass.getuser()} - {"root", ""}:
        assert secret not in text


def test_a_device_that_does_not_repeat_to_the_last_digit_says_so(monkeypatch):
    import torch

    assert "repeats" not in environment()["hardware"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**30))
    there = environment.__wrapped__("cuda")["hardware"]
    assert there["repeats"] == "not to the last digit"
    assert there["gpu"] == "a GPU"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "repeats" not in environment.__wrapped__("cuda")["hardware"]


def test_the_commit_is_short_or_absent():
    found = commit()
    assert not found or len(found["commit"]) == 12


def test_records_are_no_changes_and_code_is(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr("repro.records.provenance.ROOT", tmp_path)
    record, table, code = (
        tmp_path / name for name in ("leaderboard/reference/coe/text.jsonl", "README.md", "repro/code.py")
    )
    for path in (record, table, code):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    dirty = []
    for path in (record, table, code):
        path.write_text("2")
        dirty.append(commit.__wrapped__()["dirty"])
    assert dirty == [False, False, True]


def test_names_that_claims_share_with_the_configuration_do_not_tie_them_to_it(tmp_path):
    """A comprehension over settings binds ``residual`` for itself; the field of that name must not pull it in."""
    folder = tmp_path / "papers" / "p"
    folder.mkdir(parents=True)
    (folder / "experiment.py").write_text("from papers.p.paper import Config\nrun = Config\n")
    text = "class Config:\n    residual: str = BASE\nBASE = 'a'\nSETTINGS = [residual for residual in ('x', {more})]\n"
    hashes = []
    for paper in (text.replace("{more}", "'y'"), text.replace("{more}", "'z'"), text.replace("'a'", "'b'")):
        (folder / "paper.py").write_text(paper)
        hashes.append(Reach(tmp_path).hash([("papers.p.experiment", "run")]))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_data_set_of_a_run_is_the_one_that_its_configuration_names():
    codes = {
        data: run_code("papers.coe.experiment.run", {"data": data}) for data in ("stdlib", "composition", "elsewhere")
    }
    assert len(set(codes.values())) == 3
    assert codes["elsewhere"] == run_code("papers.coe.experiment.run", {})


def test_records_from_when_modules_were_counted_are_current_while_their_code_is(monkeypatch):
    entry, data = "papers.coe.experiment.run", "composition"
    now = entry_code(entry, data)
    monkeypatch.setattr(provenance, "_earlier", lambda: {f"{entry} {data}": {"0" * 16: now, "1" * 16: "f" * 16}})
    paper, record = load_paper("coe"), synthetic.coe_records(scale="laptop")[0]
    record = replace(record, config={**record.config, "data": data})
    stale = [report.is_stale(paper, replace(record, code=code)) for code in (now, "0" * 16, "1" * 16, "2" * 16)]
    assert stale == [False, False, True, True]


def test_the_table_of_earlier_codes_is_of_papers_that_are_here():
    table = provenance._earlier.__wrapped__()
    entries = {e for p in map(load_paper, slugs()) for e in (p.experiment, p.accounting)}
    assert {name.split()[0] for name in table} <= entries
    assert all(
        len(code) == 16 and int(code, 16) >= 0 for row in table.values() for pair in row.items() for code in pair
    )
