"""Random pipelines and ways of training them, for the benchmarks of alignment."""
