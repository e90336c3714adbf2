"""Rows to train and test on."""
