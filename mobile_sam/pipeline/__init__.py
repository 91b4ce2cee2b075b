"""Modules that the Snakefile imports: inputs, fingerprints, rules, resources and handlers."""
