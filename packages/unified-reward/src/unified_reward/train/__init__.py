"""Training: judges and the tiny checkpoints."""
