"""Tests of the client file, which a trainer copies."""
