"""Reports: one self-contained HTML file from the artefacts of a run or of a comparison, never from a model."""

from sotune.reporting.adapter_card import update_card
from sotune.reporting.comparison_report import write_comparison_report
from sotune.reporting.comparison_tables import write_comparison_tables
from sotune.reporting.finding import Finding, behavior, failures, findings, stand_in
from sotune.reporting.models_report import write_models_report
from sotune.reporting.run_report import write_run_report

__all__ = [
    "Finding",
    "behavior",
    "failures",
    "findings",
    "stand_in",
    "update_card",
    "write_comparison_report",
    "write_comparison_tables",
    "write_models_report",
    "write_run_report",
]
