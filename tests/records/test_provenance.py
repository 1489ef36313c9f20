"""A record goes stale when the code that made it changes, and only then."""

from __future__ import annotations

import json
import subprocess

import pytest

from repro.records.provenance import code_hash, commit, environment, file_fingerprint, run_key

EXPERIMENT = '''"""Doc."""
from papers.x import method
from papers.x.paper import Config
from repro.models import block

def run():
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
    "papers/x/part.py": "import repro.training.loop\nhalf = 0.5\n",
    "papers/x/unused.py": "x = 1\n",
    "repro/__init__.py": "",
    "repro/claims/__init__.py": "rule = 1\n",
    "repro/models/__init__.py": "from repro.models.block import block\n",
    "repro/models/block.py": "def block():\n    from repro.models import deep\n    return deep\n",
    "repro/models/deep.py": "depth = 3\n",
    "repro/training/__init__.py": "",
    "repro/training/loop.py": "from ..models import extra\nfrom repro.claims import rule\nimport torch\n",
    "repro/models/extra.py": "extra = 1\n",
}


@pytest.fixture
def tree(tmp_path):
    """Hash of the experiment, with one file of the tree replaced."""

    def hashed(name: str | None = None, text: str = "") -> str:
        for path, content in {**TREE, **({name: text} if name else {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        code_hash.cache_clear()
        return code_hash("papers.x.experiment", tmp_path)

    yield hashed
    code_hash.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("papers/x/experiment.py", EXPERIMENT.replace("Doc.", "Other words.")),
        ("papers/x/experiment.py", EXPERIMENT + "\n# a comment\n"),
        ("papers/x/experiment.py", EXPERIMENT.replace("return 1", "return (1)")),
        ("papers/x/experiment.py", EXPERIMENT.replace("    return 1", '    """Says one."""\n    return 1')),
        ("papers/x/paper.py", PAPER.replace("(1, gain())", "(2, gain())")),
        ("papers/x/paper.py", PAPER.replace("return rule", "return 2 * rule")),
        ("papers/x/paper.py", PAPER.replace("Options.", "Choices.")),
        ("papers/x/unused.py", "x = 2\n"),
        ("repro/claims/__init__.py", "rule = 2\n"),
    ],
)
def test_what_does_not_change_the_run_keeps_the_hash(tree, name, text):
    assert tree(name, text) == tree()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("papers/x/experiment.py", EXPERIMENT.replace("return 1", "return 2"), id="the module itself"),
        pytest.param("papers/x/method.py", TREE["papers/x/method.py"] + "x = 1\n", id="from package import module"),
        pytest.param("papers/x/part.py", TREE["papers/x/part.py"].replace("0.5", "0.6"), id="relative import"),
        pytest.param("repro/models/__init__.py", TREE["repro/models/__init__.py"] + "x = 1\n", id="package init"),
        pytest.param("repro/models/block.py", TREE["repro/models/block.py"] + "x = 1\n", id="through a package init"),
        pytest.param("repro/models/deep.py", "depth = 4\n", id="import inside a function"),
        pytest.param("repro/training/loop.py", TREE["repro/training/loop.py"] + "x = 1\n", id="import a.b.c"),
        pytest.param("repro/training/__init__.py", "import os\n", id="init of a package on the way"),
        pytest.param("repro/models/extra.py", "extra = 2\n", id="two dots"),
        pytest.param("papers/x/paper.py", PAPER.replace("width = WIDTH", "width = 2 * WIDTH"), id="configuration"),
        pytest.param("papers/x/paper.py", PAPER.replace("WIDTH = 4", "WIDTH = 5"), id="what the configuration reads"),
        pytest.param("papers/x/__init__.py", "x = 1\n", id="the paper's package"),
    ],
)
def test_what_changes_the_run_changes_the_hash(tree, name, text):
    assert tree(name, text) != tree()


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
    (folder / "experiment.py").write_text("from papers.p.paper import Config\n")
    text = "class Config:\n    residual: str = BASE\nBASE = 'a'\nSETTINGS = [residual for residual in ('x', {more})]\n"
    hashes = []
    for more in ("'y'", "'z'"):
        (folder / "paper.py").write_text(text.replace("{more}", more))
        hashes.append(code_hash.__wrapped__("papers.p.experiment", tmp_path))
    assert hashes[0] == hashes[1]
    (folder / "paper.py").write_text(text.replace("{more}", "'y'").replace("'a'", "'b'"))
    assert code_hash.__wrapped__("papers.p.experiment", tmp_path) != hashes[0]


def test_a_run_depends_on_the_code_of_its_own_data_set_and_of_no_other(tree, tmp_path, monkeypatch):
    from repro.records import provenance

    monkeypatch.setattr(provenance, "module_of", {"ours": "repro.data.ours", "theirs": "repro.data.theirs"}.get)

    def hashed(data: str, **files: str) -> str:
        for name in ("__init__", "registry", "ours", "theirs"):
            path = tmp_path / "repro" / "data" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files.get(name, "x = 1\n"))
        tree()
        return code_hash("papers.x.experiment", tmp_path, (provenance.module_of(data),))

    assert hashed("ours") != hashed("theirs")
    assert hashed("ours") != hashed("ours", ours="x = 2\n")
    assert hashed("ours") == hashed("ours", theirs="x = 2\n") == hashed("ours", registry="x = 2\n")


def test_the_data_set_of_a_run_is_the_one_that_its_configuration_names():
    from repro.records.provenance import run_code

    codes = {
        data: run_code("papers.coe.experiment.run", {"data": data}) for data in ("stdlib", "composition", "elsewhere")
    }
    assert len(set(codes.values())) == 3
    assert codes["elsewhere"] == run_code("papers.coe.experiment.run", {}) == code_hash("papers.coe.experiment")


def test_task_files_beside_a_package_count(tree, tmp_path):
    before = tree()
    (tmp_path / "repro" / "models" / "task.yaml").write_text("a: 1\n")
    assert tree() != before
