"""Official benchmarks, one file each, which says what is known of the official protocol."""
