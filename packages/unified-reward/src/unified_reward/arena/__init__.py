"""Arena: people vote on pairs of outputs, blind, in a browser."""
