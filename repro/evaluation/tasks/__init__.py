"""Task definitions of lm-evaluation-harness over local files. The bridge fills in the files."""
