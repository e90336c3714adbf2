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
    """The device as given, or the best there is for None; ``auto`` stays as it is.

    Raises:
        ConfigError: torch knows no device of that name, or it is not available here.
    """
    if device is None or device == "auto":
        return device or best_device()
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is cpu, cuda, cuda:0, mps, …, not {device!r}") from error
    module = torch.backends.mps if parsed.type == "mps" else getattr(torch, parsed.type, None)
    is_available = getattr(module, "is_available", lambda: False)()
    n_devices = getattr(module, "device_count", lambda: 1)() if is_available else 0
    if (parsed.index or 0) >= n_devices:
        raise ConfigError(f"device {device!r} is not available; {best_device()!r} is")
    return device


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
