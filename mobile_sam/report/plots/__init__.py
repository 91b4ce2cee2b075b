"""Plots of a report: each a PNG and a CSV beside the page."""
