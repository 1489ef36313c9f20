"""From records to tables, pages and files for machines. Reads `repro`, trains nothing, imports no torch."""
