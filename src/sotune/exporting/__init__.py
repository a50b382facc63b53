"""The kept rows in the shapes of other tools, with what each makes of a weight."""

from sotune.exporting.cards import ExportFacts
from sotune.exporting.export_files import Exported, export_rows
from sotune.exporting.export_targets import TARGETS, ExportTarget
from sotune.exporting.hub_push import Upload, push, uploads
from sotune.exporting.resampling import resample

__all__ = ["TARGETS", "ExportFacts", "ExportTarget", "Exported", "Upload", "export_rows", "push", "resample", "uploads"]
