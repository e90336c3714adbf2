"""Devices and dtypes of local checkpoints: names to torch's objects, with one default rule."""

from __future__ import annotations

import torch

from unified_reward.core.errors import ConfigError


def best_device() -> str:
    """The fastest kind of device there is: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_device(device: str | None) -> str:
    """The device as given, or the best there is for None."""
    return device or best_device()


def resolve_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The dtype as given; for None float32 on a CPU and bfloat16 elsewhere.

    Raises:
        ConfigError: torch has no floating-point dtype of that name.
    """
    name = dtype or ("float32" if device == "cpu" else "bfloat16")
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype is float32, bfloat16, float16, …, not {name!r}")
    return found
