"""Files from the network: known checkpoints and public data sets."""
