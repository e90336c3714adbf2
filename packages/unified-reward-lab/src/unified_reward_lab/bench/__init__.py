"""Benchmarks of the microworld, and the pages that show them."""
