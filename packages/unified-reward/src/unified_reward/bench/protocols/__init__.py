"""Official benchmarks, one file each, with notes on the official protocol."""
