"""Evaluation of generators: which model is better, by how much, and for which prompts."""
