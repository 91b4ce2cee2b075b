"""Annotation formats on disk: one file each, registered as a row in `registry`."""
