"""Preference pairs: strategies, tournaments, files and exports."""
