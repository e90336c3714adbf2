"""Answers of a judge that reasons, as texts: its exam, and the sifting of its own answers.

A comparison is put in both orders by the requests of `open_judge`, and read by the family's parser.
"""

from __future__ import annotations
