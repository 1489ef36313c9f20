"""Pictures that runs leave: what is drawn, and what records and pages make of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from leaderboard.build import build
from repro.claims import ACCOUNTING
from repro.evaluation.pictures import chart, image, sheet
from repro.papers import load_paper
from repro.records import BadRecord, Record, write_reference
from repro.runner import Outcome, Picture
from repro.runner.outcome import PICTURES_LIMIT
from tests.leaderboard import synthetic


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.content)))


def test_an_image_has_the_pixels_given():
    grey = torch.tensor([[0.0, 0.5], [1.0, 2.0]])
    assert pixels(image(grey, "t")).tolist() == [[0, 128], [255, 255]]
    colour = np.zeros((3, 4, 5), np.uint8)
    colour[1, 2, 3] = 200
    found = pixels(image(colour, "t", scale=2))
    assert found.shape == (8, 10, 3)
    assert found[4:6, 6:8, 1].tolist() == [[200, 200]] * 2
    assert found.sum() == 800
    assert (pixels(image(colour.transpose(1, 2, 0), "t")) == found[::2, ::2]).all()
    with pytest.raises(ValueError, match=r"not \[2, 3, 4\]"):
        image(np.zeros((2, 3, 4)), "t")


def test_a_sheet_lays_images_out_row_by_row():
    images = torch.arange(5).float().view(5, 1, 1, 1).expand(5, 1, 2, 3) / 10
    found = pixels(sheet(images, "t", columns=2, gap=1))
    assert found.shape == (8, 7)
    assert found[0, 0] == 0
    assert found[0, 4] == 26  # the second
    assert found[3, 0] == 51  # the third, in the next row
    assert (found[2] == 255).all()
    assert (found[6, 4:] == 255).all(), "no sixth"
    with pytest.raises(ValueError, match="one or three channels"):
        sheet(torch.zeros(2, 2, 3, 3), "t")


def test_a_chart_names_its_axes_and_series():
    picture = chart(
        {"one": {"x": [1, 2], "y": [3, 4], "low": [2, 3], "high": [4, 5]}, "two": {"x": [1, 2], "y": [1, 1]}},
        "bytes", "error", "t", points=True, log_x=True,
    )  # fmt: skip
    text = picture.content.decode()
    assert text.startswith("<svg")
    for word in ("bytes", "error", "one", "two"):
        assert f">{word}<" in text
    with pytest.raises(ValueError, match="different lengths"):
        chart({"one": {"x": [1], "y": [3, 4]}}, "x", "y", "t")


def test_records_hold_pictures_and_refuse_what_is_none():
    outcome = Outcome(pictures={"samples": image(np.eye(3), "a diagonal")})
    record = replace(synthetic.coe_record("composition", "moe", 0), pictures=outcome.encoded_pictures())
    back = Record.from_json(record.to_json())
    assert back.pictures == record.pictures
    assert back.to_json() == record.to_json()
    assert "pictures" not in synthetic.coe_record("composition", "moe", 0).to_json()
    for broken in ({"kind": "html", "text": "", "data": ""}, {"kind": "png", "text": ""}, "x", None, {"kind": 3}):
        raw = json.loads(record.to_json())
        raw["pictures"] = {"p": broken}
        with pytest.raises(BadRecord, match="picture 'p'"):
            Record.from_json(json.dumps(raw))
    with pytest.raises(ValueError, match="are allowed"):
        Outcome(pictures={"big": Picture("png", b"x" * (PICTURES_LIMIT + 1), "t")}).encoded_pictures()


def test_the_page_shows_the_first_seed_of_each_arm(tmp_path):
    hostile = '"><script>alert(1)</script>'
    made = []
    for record in synthetic.coe_records(settings=("composition",)):
        shown = {"samples/../x": image(np.full((2, 2), record.seed / 10), f"seed {record.seed} {hostile}")}
        made.append(replace(record, pictures=Outcome(pictures=shown).encoded_pictures()))
    write_reference(made, tmp_path / "reference")
    page = build(tmp_path / "reference", None, tmp_path / "site", papers=[load_paper("coe")])
    files = sorted((page.parent / "paper" / "coe").glob("*.png"))
    arms = {r.arm for r in made} - {ACCOUNTING}
    assert len(files) == len(arms)
    assert {np.asarray(Image.open(f))[0, 0] for f in files} == {0}
    text = (page.parent / "paper" / "coe.html").read_text()
    assert text.count("<img src=") == len(arms)
    assert "seed 0 &#34;&gt;&lt;script&gt;" in text
    assert "<script>alert" not in text
    write_reference([replace(r, pictures={}) for r in made], tmp_path / "reference")
    build(tmp_path / "reference", None, tmp_path / "site", papers=[load_paper("coe")])
    assert not list((page.parent / "paper" / "coe").glob("*.png")), "pictures that are gone go from the site"
