"""``python -m repro``: the same command line as ``repro``."""

import sys

from repro.cli import main

sys.exit(main())
