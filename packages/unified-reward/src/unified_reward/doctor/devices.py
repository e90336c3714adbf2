"""Accelerators, and what the model backends find: attention, dtypes, decoders, compilers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_reward.backends.attention import ATTENTIONS, check_attention
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extra


NVIDIA = Path("/proc/driver/nvidia/version")
_COMPILERS = ("c++", "g++", "clang++", "nvcc", "ninja")
_CODECS = ("h264", "hevc", "vp9", "av1")


@dataclass(frozen=True)
class Device:
    """An accelerator that torch sees; memory in bytes, None is unknown."""

    device: str
    """Value of ``--device``."""
    name: str
    capability: str | None
    """Compute capability of CUDA, such as ``9.0``."""
    total: int | None
    free: int | None
    bfloat16: bool | None
    dtype: str
    """Dtype that a judge is loaded with there."""


@dataclass(frozen=True)
class Backends:
    """Ways in which local models can run here; None without torch."""

    device: str
    """Device of a judge by default."""
    dtype: str
    """Its dtype there by default."""
    attention: dict[str, str]
    """Reason that an implementation is not available; empty where it is."""
    cuda: str | None
    """Version of CUDA that torch is built for."""
    driver: str | None
    """Version of NVIDIA's driver."""


def devices() -> list[Device]:
    """Accelerators of this machine, by torch; imports it.

    Raises:
        ConfigError: torch is not installed.
    """
    with extra("local"):
        import torch

    from unified_reward.backends.devices import resolve_dtype

    rows: list[Device] = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        known = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        rows.append(
            Device(
                f"cuda:{i}",
                known.name,
                f"{known.major}.{known.minor}",
                total,
                free,
                (known.major, known.minor) >= (8, 0),
                _short(resolve_dtype(None, f"cuda:{i}")),
            )
        )
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        rows.append(
            Device("mps", "Apple", None, total, free, None, _short(resolve_dtype(None, "mps")))
        )
    return rows


def backends() -> Backends:
    """Default device and dtype of a judge, and the attention implementations there."""
    with extra("local"):
        import torch

    from unified_reward.backends.devices import best_device, resolve_dtype

    device = best_device()
    dtype = resolve_dtype(None, device)
    reasons: dict[str, str] = {}
    for name in ATTENTIONS:
        try:
            check_attention(name, device, dtype)
            reasons[name] = ""
        except ConfigError as error:
            reasons[name] = str(error).partition(";")[0].partition("' ")[2]
    return Backends(device, _short(dtype), reasons, torch.version.cuda, driver())


def driver() -> str | None:
    """Version of NVIDIA's driver, as its kernel module says it; None without one."""
    try:
        words = NVIDIA.read_text("utf-8").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word.replace(".", "").isdigit()), None)


def decoders() -> dict[str, Any]:
    """Version of FFmpeg's libavcodec behind PyAV, and the codecs of videos that it decodes."""
    import av

    known = av.codecs_available
    names = [name for name in _CODECS if name in known]
    return {"libavcodec": ".".join(map(str, av.library_versions["libavcodec"])), "codecs": names}


def compilers() -> dict[str, str | None]:
    """Paths of compilers: ``torch.compile`` needs C++, kernels of CUDA need nvcc."""
    return {name: shutil.which(name) for name in _COMPILERS}


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
