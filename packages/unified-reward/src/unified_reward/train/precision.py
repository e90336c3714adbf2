"""Types of weights and mixed precision in trainings."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from unified_reward.core.errors import ConfigError
from unified_reward.policies.autoencoders import needs_precision


Dtype = Literal["float32", "bfloat16"]
MixedPrecision = Literal["no", "bf16"]


def check_dtype(dtype: Dtype | None, precision: MixedPrecision | None, lora_rank: int) -> None:
    """Check the type of frozen weights against the other settings of a training.

    Raises:
        ConfigError: They do not fit.
    """
    if dtype == "bfloat16" and (precision == "no" or not lora_rank):
        needed = "precision=bf16" if precision == "no" else "adapters: give optim.lora_rank"
        raise ConfigError(f"dtype: frozen weights in bfloat16 need {needed}")


def frozen_dtype(
    dtype: Dtype | None, precision: MixedPrecision | None, lora_rank: int, *, on_gpu: bool
) -> Dtype:
    """Type of the weights that are not trained.

    Args:
        dtype: As set; None for bfloat16 under adapters in mixed precision on a GPU, else float32.
        precision: Mixed precision as set; None is bf16 on a GPU.
        lora_rank: Rank of the adapters; 0 trains all weights of the network.
        on_gpu: True where the training runs on a GPU.
    """
    is_half = on_gpu and precision != "no" and bool(lora_rank)
    return dtype or ("bfloat16" if is_half else "float32")


def load_dtype(dtype: Dtype | None, lora_rank: int) -> Dtype:
    """Type in which the trainings of a vision-language model load it here.

    Args:
        dtype: As set, see `frozen_dtype`.
        lora_rank: Rank of the adapters.
    """
    return frozen_dtype(dtype, None, lora_rank, on_gpu=torch.cuda.is_available())


def mixed_precision(dtype: Dtype | None, precision: MixedPrecision | None) -> MixedPrecision | None:
    """Mixed precision as set, or what frozen weights in bfloat16 need."""
    return precision or ("bf16" if dtype == "bfloat16" else None)


def frozen_bytes(pipeline: Any, dtype: Dtype) -> int:
    """Bytes of all weights of a pipeline, where none is trained.

    Args:
        pipeline: A pipeline, also one on the meta device.
        dtype: Type of frozen weights.
    """
    total = 0
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            is_precise = dtype == "float32" or (name == "vae" and needs_precision(part))
            n = sum(weight.numel() for weight in part.parameters())
            total += n * (4 if is_precise else 2)
    return total
