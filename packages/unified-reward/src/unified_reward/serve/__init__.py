"""The reward server: judges and scorers behind HTTP."""
