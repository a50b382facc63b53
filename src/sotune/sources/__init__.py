"""Sources: files and Hugging Face data sets to records, one reader per file format."""

from sotune.sources.layouts import Layout
from sotune.sources.load import LoadedSet, SourceFile, load_rows, load_set, own_id
from sotune.sources.opening import source_files
from sotune.sources.options import SourceOptions
from sotune.sources.quarantine import QuarantinedRow
from sotune.sources.sides import choose_side

__all__ = [
    "Layout",
    "LoadedSet",
    "QuarantinedRow",
    "SourceFile",
    "SourceOptions",
    "choose_side",
    "load_rows",
    "load_set",
    "own_id",
    "source_files",
]
