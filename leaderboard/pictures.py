"""Which files a site may hand out as pictures: drawings can carry scripts, and a record may come from anywhere."""

from __future__ import annotations

import re
from xml.etree import ElementTree

PNG = b"\x89PNG\r\n\x1a\n"
_SVG = "{http://www.w3.org/2000/svg}"
#: Elements that only draw. Styles are left out: they may load.
DRAWING = frozenset((
    "svg", "g", "defs", "title", "desc", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text",
    "tspan", "clipPath", "mask", "pattern", "marker", "symbol", "use", "linearGradient", "radialGradient", "stop",
    "image",
))  # fmt: skip
_LINK = re.compile(r"#[\w.-]+|data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*")
_ELSEWHERE = re.compile(r"url\(\s*[\"']?(?!#)|@import|javascript:|expression\(", re.IGNORECASE)


def harmless(kind: str, content: bytes) -> bool:
    """Whether ``content`` is a PNG, or an SVG that only draws: no script, no handler, nothing loaded from elsewhere."""
    return content.startswith(PNG) if kind == "png" else kind == "svg" and _draws(content)


def _draws(content: bytes) -> bool:
    if b"<!" in content or b"<?xml-stylesheet" in content:  # entities grow without end; comments are not needed
        return False
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):  # LookupError: an encoding that there is not
        return False
    return root.tag == f"{_SVG}svg" and all(map(_harmless, root.iter()))


def _harmless(element: ElementTree.Element) -> bool:
    name = element.tag
    if not isinstance(name, str) or not name.startswith(_SVG) or name.removeprefix(_SVG) not in DRAWING:
        return False
    for attribute, value in element.attrib.items():
        local = attribute.rpartition("}")[2].lower()
        if local.startswith("on") or _ELSEWHERE.search(value) or (local == "href" and not _LINK.fullmatch(value)):
            return False
    return True
