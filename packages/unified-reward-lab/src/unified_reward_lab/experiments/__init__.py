"""Experiments on judges where the truth is known; each has a report, a page and a plot."""
