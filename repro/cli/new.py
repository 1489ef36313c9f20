"""``repro new``: lay down the folder and the test file of a paper."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from repro import papers
from repro.cli.choices import BadInput

TEMPLATES = Path(__file__).resolve().parents[1] / "scaffold"
SLUG = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")


def new(given: str, title: str | None = None) -> int:
    """Write ``papers/<slug>/`` and ``tests/papers/test_<slug>.py``. Raises BadInput for a slug that cannot be used."""
    slug = given.replace("-", "_")
    if not SLUG.match(slug) or len(slug) > 40 or keyword.iskeyword(slug) or slug in ("all", "template"):
        raise BadInput(
            f"{given!r} cannot be a slug: lower-case letters, digits and single dashes, at most 40, not a keyword"
        )
    title = (title or slug.replace("_", " ").capitalize()).strip()
    if not title or not title.isprintable():
        raise BadInput("a title is one line of text")
    folder = papers.FOLDER / slug
    test = papers.ROOT / "tests" / "papers" / f"test_{slug}.py"
    for path in (folder, test):
        if path.exists():
            raise BadInput(f"{path.relative_to(papers.ROOT)} exists already")
    words = {"slug": slug, "dashed": slug.replace("_", "-"), "title": title, "quoted": _quoted(title)}
    words["short"] = _quoted(title.partition(":")[0])
    written = []
    for template in sorted(TEMPLATES.glob("*.template")):
        name = template.name.removesuffix(".template")
        path = test if name == "test.py" else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
        written.append(path.relative_to(papers.ROOT))
    print("\n".join(str(path) for path in written))
    print(f"\nIt runs: nox -s reproduce-{words['dashed']}")
    print("Now put the paper's facts and claims into paper.py; CONTRIBUTING.md has the contract on one page.")
    return 0


def _quoted(text: str) -> str:
    """A Python string literal, in the quotes that the formatter prefers."""
    quote = "'" if '"' in text and "'" not in text else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
