"""``python -m leaderboard``: build the site and name its front page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leaderboard.build import REFERENCE, SITE, build
from repro.report import default_local


def main() -> int:
    """Parse the command line, build, print where the page is and what could not be read."""
    parser = argparse.ArgumentParser(prog="python -m leaderboard", description=__doc__)
    parser.add_argument("--out", type=Path, default=SITE, metavar="DIR", help="folder of the site")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="DIR", help="committed records")
    parser.add_argument("--local", type=Path, default=default_local(), metavar="DIR", help="records of this machine")
    parser.add_argument("--no-local", action="store_true", help="reference records only")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the table of results into this README too")
    arguments = parser.parse_args()
    problems: list[str] = []
    local = None if arguments.no_local else arguments.local
    page = build(arguments.reference, local, arguments.out, problems=problems, readme=arguments.readme)
    for problem in problems:
        print(f"skipped {problem}", file=sys.stderr)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
