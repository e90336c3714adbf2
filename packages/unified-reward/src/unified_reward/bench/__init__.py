"""Benchmarks: pure metrics, and one file per protocol."""
