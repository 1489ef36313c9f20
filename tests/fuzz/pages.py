"""Is a page well-formed, and does it hold nothing but what the templates put there?"""

from __future__ import annotations

import html.parser
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr", "col"}
#: Elements of the templates, and of the drawings that the builder makes.
KNOWN = VOID | set(re.findall(r"\w+", """
    html head title script body header nav main footer article section div span p a ul ol li dl dt dd h1 h2 h3 h4 b i em
    strong code pre sub sup small abbr table caption thead tbody tfoot tr th td colgroup form fieldset legend label
    select option button output details summary figure figcaption svg g path circle line rect text polygon desc use
    math mi mo mn msub msup mover munder mspace mrow mfrac msqrt
"""))  # fmt: skip
#: What HTML allows nowhere in a document.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


class Page(html.parser.HTMLParser):
    """Collects what is wrong with a page."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        if not text.startswith("<!doctype html>\n"):
            self.wrong.append("no doctype")
        if found := FORBIDDEN.search(text):
            self.wrong.append(f"the character {found[0]!r}")
        self.feed(text)
        self.close()
        if self.open:
            self.wrong.append(f"{self.open[-1]} is not closed")

    def handle_starttag(self, tag, attrs):
        if tag not in KNOWN:
            self.wrong.append(f"an element {tag!r}")
        if tag not in VOID:
            self.open.append(tag)
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.wrong.append(f"an attribute of {tag} twice")
        for name, value in attrs:
            if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9:-]*", name) or name.startswith("on") or name == "style":
                self.wrong.append(f"an attribute {name!r}")
            if name == "id":
                if value in self.ids or not value or re.search(r"\s", value):
                    self.wrong.append(f"the id {value!r}")
                self.ids.add(value or "")
            if name in ("href", "src", "action", "xlink:href"):
                self.links.append(value or "")
        if tag == "script" and dict(attrs).get("type") != "application/json":
            source = dict(attrs).get("src") or ""
            if not re.fullmatch(r"(\.\./)*assets/(theme|site)\.js", source):
                self.wrong.append(f"a script from {source!r}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_comment(self, data):
        self.wrong.append(f"a comment {data!r}")

    def unknown_decl(self, data):
        self.wrong.append(f"a declaration {data!r}")

    def handle_pi(self, data):
        self.wrong.append(f"an instruction {data!r}")


def check(folder: Path) -> list[str]:
    """What is wrong with the pages of a site, by name."""
    out = []
    for path in sorted(folder.rglob("*.html")):
        page = Page(path.read_text(encoding="utf-8"))
        out += [f"{path.relative_to(folder)}: {what}" for what in page.wrong]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if not re.match(r"https://(arxiv\.org/abs|github\.com)/", link):
                    out.append(f"{path.relative_to(folder)}: a link to {link!r}")
            elif parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
                if not target.is_relative_to(folder.resolve()) or not target.is_file():
                    out.append(f"{path.relative_to(folder)}: a link to nothing, {link!r}")
    return out
