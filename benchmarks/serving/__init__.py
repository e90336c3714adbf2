"""Parts of ``benchmarks/serve.py``: scorers, pictures, published patterns, load and faults."""
