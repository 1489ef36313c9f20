"""Whatever is mistyped: exit code 2 and one line that names the nearest valid choices."""

from __future__ import annotations

import pytest

from repro.cli import main
from repro.papers import slugs

SLUG = slugs()[0]
RUN = ["run", SLUG]


@pytest.fixture
def says(capsys):
    """Run the command line; return its one line of complaint."""

    def run(*argv: str) -> str:
        assert main(list(argv)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        return err

    return run


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["lst"], ["unknown verb 'lst'", "did you mean list?", "leaderboard"]),
        (["show", SLUG + "x"], [f"unknown paper '{SLUG}x'", f"did you mean {SLUG.replace('_', '-')}"]),
        (["run", "zzzz"], ["unknown paper 'zzzz'"]),
        (["judge", "zzzz"], ["unknown paper 'zzzz'"]),
        (["show"], ["PAPER"]),
        (["run"], ["PAPER"]),
        ([*RUN, "--scale", "lapto"], ["unknown scale 'lapto'", "did you mean laptop?", "smoke", "gpu", "published"]),
        (["judge", SLUG, "--scale", "huge"], ["unknown scale 'huge'", "choices: smoke, laptop, gpu, published"]),
        ([*RUN, "--device", "tpu"], ["unknown device 'tpu'", "cpu, cuda"]),
        ([*RUN, "--claims", "C1,Q9"], ["unknown claim 'Q9'", "C1"]),
        ([*RUN, "--set", "nonsense"], ["key=value", "'nonsense'"]),
        ([*RUN, "--set", "=3"], ["no option ''"]),
        ([*RUN, "--set", "steps=3", "--reference"], ["--reference keeps runs of a preset"]),
        ([*RUN, "--seeds", "many"], ["--seeds", "int", "'many'"]),
        ([*RUN, "--seeds", "0"], ["--seeds must be above 0"]),
        ([*RUN, "--seeds", "-2"], ["--seeds must be above 0"]),
        ([*RUN, "--workers", "0"], ["--workers must be above 0"]),
        ([*RUN, "--time-limit", "nan"], ["--time-limit must be above 0"]),
        ([*RUN, "--time-limit", "0"], ["--time-limit must be above 0"]),
        ([*RUN, "--scal", "smoke"], ["unknown flag '--scal'", "did you mean --scale"]),
        ([*RUN, "--arms", ","], ["no arm named"]),
        (["tune", SLUG], ["needs --settings and --arms"]),
        (["tune", SLUG, "--device", "tpu"], ["unknown device 'tpu'"]),
        (["tune", SLUG, "--seeds", "0"], ["--seeds must be above 0"]),
        (["tune", SLUG, "--workers", "-1"], ["--workers must be above 0"]),
        (["new", "Bad Slug"], ["'Bad Slug' cannot be a slug"]),
        (["new", "../evil"], ["cannot be a slug"]),
        (["new", "class"], ["cannot be a slug"]),
        (["new", "all"], ["cannot be a slug"]),
        (["new", "9lives"], ["cannot be a slug"]),
        (["new", SLUG], [f"papers/{SLUG} exists already"]),
        (["new", "fine", "--title", "two\nlines"], ["one line"]),
    ],
)
def test_one_line_says_what_is_wrong(argv, words, says):
    line = says(*argv)
    for word in words:
        assert word in line


@pytest.mark.parametrize("slug", slugs())
@pytest.mark.parametrize(("flag", "kind"), [("--arms", "arm"), ("--settings", "setting"), ("--data", "data")])
def test_names_of_a_paper_are_checked_against_it(slug, flag, kind, says):
    line = says("run", slug, flag, "no-such-name")
    assert f"unknown {kind} 'no-such-name'" in line
    assert "choices" in line


@pytest.mark.parametrize(
    ("given", "says_type"),
    [("whole=x", "int"), ("whole=1.5", "int"), ("real=x", "float"), ("flag=maybe", "bool")],
)
def test_a_value_of_the_wrong_type_names_the_type(given, says_type, toy):
    from repro.cli.choices import BadInput, parse_overrides

    with pytest.raises(BadInput, match=f"is of type {says_type}; '.*' is not"):
        parse_overrides(toy, [given])


def test_values_get_the_types_of_the_configuration(toy):
    from repro.cli.choices import parse_overrides

    given = ["whole=3", "real=1e-3", "flag=no", "text=a=b", "whole=4", "real = 2"]
    found = parse_overrides(toy, given)
    assert found == {"whole": 4, "real": 2.0, "flag": False, "text": "a=b"}
    assert type(found["real"]) is float


def test_an_unknown_option_names_the_nearest(toy):
    from repro.cli.choices import BadInput, parse_overrides

    with pytest.raises(BadInput, match="no option 'hole'; did you mean whole"):
        parse_overrides(toy, ["hole=3"])
    with pytest.raises(BadInput, match="cannot be set on the command line"):
        parse_overrides(toy, ["several=1"])


@pytest.fixture
def toy():
    from dataclasses import dataclass
    from types import SimpleNamespace

    @dataclass(frozen=True)
    class Config:
        whole: int = 1
        real: float = 0.5
        flag: bool = True
        text: str = ""
        several: tuple[int, ...] = ()

    Config.__annotations__ = {"whole": int, "real": float, "flag": bool, "text": str, "several": tuple}
    return SimpleNamespace(slug="toy", config=Config)


def test_cuda_that_is_absent_is_said(says, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cuda is not available" in says(*RUN, "--device", "cuda", "--scale", "smoke")


def test_help_of_every_verb_is_there(capsys):
    from repro.cli import VERBS

    assert main([]) == 0
    assert "VERB" in capsys.readouterr().out
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert "usage: repro" in capsys.readouterr().out
