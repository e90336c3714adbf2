"""Training of the tiny checkpoints."""
