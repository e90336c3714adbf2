"""One module per family of prompts."""
