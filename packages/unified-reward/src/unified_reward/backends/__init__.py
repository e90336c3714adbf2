"""What answers requests: a local checkpoint, a server, a script."""
