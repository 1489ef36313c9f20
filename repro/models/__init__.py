"""Well-known building blocks. Every fast path has a plain reference implementation beside it."""
