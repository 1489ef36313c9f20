"""What the code may not do with files and names that come from elsewhere. Each rule is tried on code that breaks it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from repro.papers import ROOT

#: Modules that run what they read.
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pickletools"}
#: Functions that unpickle, execute, or leave to a file where its content goes.
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "torch.jit.load",
    "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp",
    "shutil.unpack_archive", "torch.hub.load_state_dict_from_url",
}  # fmt: skip
#: Functions of the hub's clients that fetch; they take a revision.
FETCHES = {"hf_hub_download", "snapshot_download", "load_split", "load_dataset"}
#: Known exceptions, each with its reason. One that is no longer needed may stay.
ALLOWED = {
    ("repro/training/parallel.py", "torch.load without weights_only=True"): "reads what its own processes wrote",
    ("repro/data/hub.py", "load_dataset without a revision"): "the first of two calls reads local files",
    ("repro/data/code_hub.py", "load_split without a revision"): "not pinned yet: takes the newest commit",
    ("repro/training/clip_bench.py", "load_split without a revision"): "not pinned yet: takes the newest commit",
}


def named(node: ast.expr) -> str:
    """``a.b.c`` of an attribute or a name; what is neither is a question mark."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{named(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def constant(call: ast.Call, name: str) -> object:
    """The value of a keyword that is written out; ``...`` for one that is computed, None where it is absent."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def breaches(source: str) -> list[str]:
    """What of a module breaks a rule."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            out += [f"imports {m}" for m in modules if m.partition(".")[0] in UNPICKLERS]
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "yaml"):
                out += [f"imports load from {node.module}" for a in node.names if a.name == "load"]
        if isinstance(node, ast.Constant) and node.value == "trust_remote_code":
            continue
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not _false(value):
                    out.append("trust_remote_code")
        if not isinstance(node, ast.Call):
            continue
        name = named(node.func)
        last = name.rpartition(".")[2]
        if name in FORBIDDEN:
            out.append(f"calls {name}")
        if name == "torch.load" and constant(node, "weights_only") is not True:
            out.append("torch.load without weights_only=True")
        if last in ("load", "load_npz", "loadtxt") and constant(node, "allow_pickle") not in (None, False):
            out.append(f"{name} with allow_pickle")
        if last == "setdefault" and [_text(a) for a in node.args[:1]] == ["trust_remote_code"]:
            out += [] if len(node.args) == 2 and _false(node.args[1]) else ["trust_remote_code"]
        if constant(node, "trust_remote_code") not in (None, False):
            out.append("trust_remote_code")
        if constant(node, "shell") not in (None, False):
            out.append(f"{name} through a shell")
        if last in ("extractall", "extract") and constant(node, "filter") != "data":
            out.append(f"{last} without filter='data'")
        if last in FETCHES and constant(node, "revision") is None:
            out.append(f"{last} without a revision")
    return out


def _false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _text(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def sources() -> list[Path]:
    """All modules but tests, which break things on purpose."""
    return sorted(p for top in ("repro", "papers", "leaderboard") for p in (ROOT / top).rglob("*.py"))


def test_nothing_is_unpickled_executed_or_fetched_unpinned():
    found = {
        (path.relative_to(ROOT).as_posix(), breach)
        for path in [*sources(), *ROOT.glob("*.py")]
        for breach in breaches(path.read_text(encoding="utf-8"))
    }
    assert sorted(found - ALLOWED.keys()) == []
    assert len(sources()) > 100


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import joblib", "from dill import load", "import marshal as m",
        "from torch import load", "from numpy import load", "import cloudpickle.cloudpickle",
        "torch.load(p)", "torch.load(p, weights_only=False)", "torch.load(p, weights_only=flag)", "torch.jit.load(p)",
        "torch.hub.load('a/b', 'c')", "np.load(p, allow_pickle=True)", "numpy.load(p, allow_pickle=x)",
        "pd.read_pickle(p)", "pandas.read_pickle(p)", "eval(text)", "exec(text)", "os.system('x')", "yaml.load(f)",
        "subprocess.run('x', shell=True)", "AutoModel.from_pretrained(n, trust_remote_code=True)",
        "AutoModel.from_pretrained(n, trust_remote_code=trust)", "options = {'trust_remote_code': True}",
        "options.setdefault('trust_remote_code', True)", "archive.extractall(p)", "archive.extractall(p, filter='tar')",
        "shutil.unpack_archive(p)", "hf_hub_download('a/b', 'c')", "huggingface_hub.snapshot_download('a/b')",
        "load_split(GSM8K, 'train')", "load_dataset('a/b', split='train')", "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_a_rule_finds_what_breaks_it(code):
    assert breaches(code)


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(p, weights_only=True)", "np.load(p)", "np.load(p, allow_pickle=False)", "yaml.safe_load(f)",
        "AutoModel.from_pretrained(n, trust_remote_code=False)", "options = {'trust_remote_code': False}",
        "options.setdefault('trust_remote_code', False)", "archive.extractall(p, filter='data')", "model.eval()",
        "json.load(f)", "load_split(S, 'train', revision=revision)", "subprocess.run(['x'])",
    ],
)  # fmt: skip
def test_a_rule_lets_what_is_safe_pass(code):
    assert breaches(code) == []


def test_every_set_of_the_hub_takes_a_revision():
    """Who asks for data can pin them: the functions of the registry that fetch have the option."""
    functions: dict[tuple[str, str], ast.FunctionDef] = {}
    for path in (ROOT / "repro" / "data").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                functions[f"repro.data.{path.stem}", node.name] = node
    fetching = {
        where: [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        for where, node in functions.items()
        if any(named(n.func).rpartition(".")[2] in FETCHES for n in ast.walk(node) if isinstance(n, ast.Call))
    }
    assert len(fetching) > 5
    assert [where for where, options in fetching.items() if "revision" not in options] == [
        ("repro.data.code_hub", "_tables")  # not pinned yet
    ]


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_pickled_weights_of_other_people_do_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig

    from repro.models.adapters import read_adapter
    from repro.zoo.hub import hub_model

    ran = tmp_path / "ran"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = tmp_path / "model"
    AutoConfig.for_model("llama", vocab_size=9, **shape).save_pretrained(model)
    torch.save({"lm_head.weight": Trap(ran)}, model / "pytorch_model.bin")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}')
    torch.save({"x": Trap(ran)}, adapter / "adapter_model.bin")
    for load in (lambda: hub_model(str(model)), lambda: read_adapter(str(adapter))):
        with pytest.raises(Exception, match=r"[Ww]eights"):
            load()
        assert not ran.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)  # the trap itself is a good one
    assert ran.exists()


def test_the_code_of_a_model_is_not_asked_for(tmp_path):
    """A model that is nothing but its own code is refused, and the code not imported."""
    from repro.data.errors import MissingData
    from repro.zoo.hub import hub_model

    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}'
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(MissingData):
        hub_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


OUTSIDE = (
    "..", ".", "", "../x", "a/b", "a\\b", "/etc/x", "~/x", "a/../../x", ".hidden", "x\n", "x\x00", "C:x", "x" * 200,
    "é", "\u017f", "\u212a", " x", "x ", "a..b",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leaves_its_folder(name, tmp_path):
    from leaderboard.views import slug
    from repro.papers import load_paper
    from repro.records import Record, Store, write_reference
    from repro.runner.remote import pack, unpack

    fine = {"key": "k", "paper": "p", "setting": "s", "arm": "a", "scale": "laptop", "seed": 0, "status": "ok"}
    for part in ("key", "paper", "scale"):
        with pytest.raises(ValueError, match="file name"):
            Store(tmp_path / "store").save(Record(**{**fine, part: name}, config={}, code=""))
    for part in ("paper", "setting", "scale"):
        with pytest.raises(ValueError, match="file name"):
            write_reference([Record(**{**fine, part: name}, config={}, code="")], tmp_path / "reference")
    with pytest.raises(KeyError):
        load_paper(name)
    assert Path(slug(name)).name == slug(name)
    assert slug(name).isascii()
    if name in ("..", ".", "", ".hidden") or "/" in name:
        (tmp_path / "packed").mkdir()
        with pytest.raises(ValueError, match="shelf"):
            unpack(pack(tmp_path / "packed"), tmp_path / "cache", f"zoo/{name}")
    assert {p.name for p in tmp_path.iterdir()} <= {"packed"}


def test_an_archive_cannot_leave_its_folder(tmp_path):
    import io
    import tarfile

    from repro.runner.remote import unpack

    for info in (tarfile.TarInfo("../evil"), tarfile.TarInfo("link")):
        if info.name == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(info)
        with pytest.raises(tarfile.FilterError):
            unpack(buffer.getvalue(), tmp_path, "zoo/base")
    assert [p.name for p in tmp_path.rglob("*")] == ["zoo"]
