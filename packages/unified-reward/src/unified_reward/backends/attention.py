"""Attention implementations that a local judge may be loaded with; imports no torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from unified_reward.core.errors import ConfigError


if TYPE_CHECKING:
    import torch

Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]
"""Names of transformers."""
ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Module that each implementation needs beside torch."""


def check_attention(attention: Attention, device: str, dtype: torch.dtype) -> None:
    """Refuse an implementation that cannot run here.

    Args:
        attention: The implementation asked for.
        device: ``cpu``, ``cuda``, ``cuda:0``, …
        dtype: Dtype of the weights.

    Raises:
        ConfigError: Its package is not installed, or it does not take this device or dtype.
    """
    package = _PACKAGES.get(attention)
    if package is None:
        return
    if find_spec(package) is None:
        raise ConfigError(
            f"attention={attention!r} needs the package {package}, which is not installed; leave "
            "it out for torch's own (sdpa)"
        )
    name = str(dtype).removeprefix("torch.")
    if not device.startswith("cuda") or name not in ("bfloat16", "float16"):
        raise ConfigError(
            f"attention={attention!r} runs in bfloat16 and float16 on a CUDA device, not in {name} "
            f"on {device}; leave it out for torch's own (sdpa)"
        )


def check_mask(mask: torch.Tensor, config: Any) -> None:
    """Refuse a mask that the attention of a model would misread.

    Args:
        mask: Shape (B, T), or with a row for each token.
        config: Configuration of the model.

    Raises:
        ValueError: It has a row for each token, and the attention is a Flash Attention.
    """
    from transformers.utils.generic import is_flash_attention_requested

    if mask.dim() > 2 and is_flash_attention_requested(config):
        # It would index beyond the keys, after which a process cannot use CUDA any more.
        raise ValueError("Flash Attention takes no mask with a row for each token")
