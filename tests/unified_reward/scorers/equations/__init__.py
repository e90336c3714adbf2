"""Reference models written from their equations: slow, float64, no model library inside."""
