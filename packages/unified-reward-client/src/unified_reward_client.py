"""Client of the reward server, weighted sets of rewards, and adapters for RL trainers.

Python >= 3.9 and numpy; Pillow where PIL images are sent. The file may be copied into a trainer.
"""

from __future__ import annotations


__version__ = "0.2.0"
