"""The laboratory: a synthetic world with known utilities, tiny checkpoints, experiments."""
