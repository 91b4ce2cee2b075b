"""Modules that the Snakefile imports: inputs, fingerprints, settings files, resources, times."""
