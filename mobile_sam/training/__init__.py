"""Training: losses, distillation, optimiser, checkpoints, and the loop of one stage."""
