"""Inputs of a report: tables of one run, of several runs, or of any weights."""
