"""Judges: everything that turns samples into verdicts, and the registry that opens them."""
