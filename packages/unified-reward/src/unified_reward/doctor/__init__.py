"""The state of a machine: what is installed, what fits, and whether it works.

`diagnosis.diagnose` collects it; nothing here reaches a network.
"""
