"""Fuzzing: mutated inputs of every kind, read by the library and by an independent reference."""
