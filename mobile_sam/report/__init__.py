"""The report: tables in; PNG, CSV and one self-contained HTML page out."""

from mobile_sam.report.write import write_comparison, write_evaluation, write_report

__all__ = ["write_comparison", "write_evaluation", "write_report"]
