"""Commands that the laboratory adds to ``unified-reward``."""
