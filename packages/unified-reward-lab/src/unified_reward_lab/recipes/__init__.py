"""Recipes of the laboratory: the tiny checkpoints and the quickstart."""
