"""``python -m repro.bench``: the same as ``repro bench``."""

import sys

from repro.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
