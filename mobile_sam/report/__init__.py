"""The report of a run: tables in; PNG, CSV and one self-contained HTML page out."""

from mobile_sam.report.page import write_report

__all__ = ["write_report"]
