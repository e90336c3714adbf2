"""Tolerances for two computations of one number, on any processor."""

from typing import Any

import numpy as np
import pytest
import torch


def rounding(*values: Any, dtype: torch.dtype = torch.float32) -> float:
    """Absolute tolerance for results that are equal but for the order of their sums.

    Another processor, batch size or number of threads adds the same products in another order.
    Each sum may be off by a unit in the last place of its largest term, so the tolerance is 512
    such units (a few layers of some ten terms) of the largest of the values, not of each one: a
    small difference of large log-probabilities is as uncertain as they are.

    >>> rounding([-55.0, 2.0]) < 0.004
    True
    """
    largest = max(float(np.abs(np.asarray(value, dtype=np.float64)).max()) for value in values)
    return 512 * torch.finfo(dtype).eps * largest


def near(wanted: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """Equal up to `rounding`; None equals None alone."""
    return (
        None if wanted is None else pytest.approx(wanted, rel=0, abs=rounding(wanted, dtype=dtype))
    )
