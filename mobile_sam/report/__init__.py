"""Report: reads tables; writes PNG and CSV files and one self-contained HTML page."""
