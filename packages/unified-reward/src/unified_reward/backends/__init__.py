"""Models that answer requests: a local checkpoint, or one behind a server."""
