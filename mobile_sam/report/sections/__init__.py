"""Sections of a report's page."""
