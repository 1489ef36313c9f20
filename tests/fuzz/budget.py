"""How long the fuzz tests look: seconds by default, always at the same examples; minutes and at new ones in the long
form, ``nox -s fuzz``. ``REPRO_FUZZ_EXAMPLES`` is the number of examples of a cheap test; dear ones take a share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

LONG = "REPRO_FUZZ_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("REPRO_FUZZ_EXAMPLES", "150"))


def budget(share: float = 1.0) -> settings:
    """Decorator of a test that takes this share of the examples."""
    return settings(
        max_examples=max(5, int(EXAMPLES * share)),
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        phases=tuple(Phase) if LONG else (Phase.explicit, Phase.generate),  # a failure is seen at once, or made small
    )


#: What has broken readers, pages and terminals before: markup, control and format characters, halves of characters,
#: names that leave a folder, spreadsheet formulas, template and shell syntax.
NASTY = (
    "", " ", "\n", "\r\n", "\t", "\x00", "\x1b[31mred\x1b[0m", "\x07", "\x85", "\u2028", "\ufeff", "\ud800", "\udfff",
    "\ufffe", "\U0010ffff", "\u202eabc", "a\u0300" * 30, "../../etc/passwd", "..", ".", "/", "\\", "C:\\con", "~",
    "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</script>", "<!--", "]]>", "&amp;", "&#0;", "&",
    "javascript:alert(1)", "{{ 7 * 7 }}", "{% raw %}", "${x}", "$(id)", "`id`", "%s%n", "=1+1", "+1", "@x", "|", "#",
    "nan", "-inf", "1e999", "null", "-", "--", "--set", "a" * 5000, "\u0130", "\u017f", "\u212a",
)  # fmt: skip

MARKS = st.text("<>&\"'`/=\\\x00\x0b\x1b\x7f\x9f\ud83d\u2029", max_size=12)
TEXTS = st.sampled_from(NASTY) | st.text(max_size=12) | MARKS
HUGE = (10**400, -(10**400), 2**63, 2**64, -(2**63) - 1, 1e308, 5e-324)
NUMBERS = st.floats() | st.integers() | st.sampled_from(HUGE)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
