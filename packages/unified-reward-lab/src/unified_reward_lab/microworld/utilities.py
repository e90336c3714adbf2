"""True utilities of images, videos and answers, between 0 and 1.

These equations are the ground truth of every measurement of this package.
"""

from __future__ import annotations


TIE_MARGIN = 0.02
"""Two utilities that differ by at most this are a tie."""

PADDING_COST = 0.15
"""Share of its utility that an answer loses for filler words."""

EVASIVE_UTILITY = 0.2
"""Utility of an evasive answer, whatever the question."""


def generation_utility(alignment: float, quality: float) -> float:
    """Utility of an image or video for a caption.

    ``u = alignment * (0.7 + 0.3 * quality)`` where ``quality = 1 - severity`` of its flaw, and the
    alignment is that of what the pixels show: a frozen or reversed video shows another event.

    >>> round(generation_utility(alignment=0.5, quality=0.5), 3)
    0.425

    Args:
        alignment: Share of the caption's facts that hold, 0 to 1.
        quality: 1 for clean pixels, 0 for the worst.
    """
    return alignment * (0.7 + 0.3 * quality)


def answer_utility(correct_frac: float, *, is_padded: bool = False) -> float:
    """Utility of an answer that is not evasive.

    ``u = c``, or ``u = 0.85 * c`` with filler words, where ``c`` is the share of the asked
    attributes that it gets right.

    >>> answer_utility(1.0, is_padded=True)
    0.85
    """
    return correct_frac * (1 - PADDING_COST) if is_padded else correct_frac
