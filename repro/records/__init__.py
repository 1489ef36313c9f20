"""Records: what runs leave, where it is kept, and where it comes from. Imports no torch."""

from repro.records.schema import SCHEMA, BadRecord, Record
from repro.records.select import standard
from repro.records.store import CannotStore, Loaded, Store, load, write_atomically, write_reference

__all__ = [
    "SCHEMA",
    "BadRecord",
    "CannotStore",
    "Loaded",
    "Record",
    "Store",
    "load",
    "standard",
    "write_atomically",
    "write_reference",
]
