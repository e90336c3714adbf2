"""Multiplications of a training step at 512 x 512 pixels, counted on networks without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.diffusion_parts import pipelines
from unified_reward.train.meta_models import build_meta_pipeline


EPOCHS = 3
"""Epochs of the published training."""
_PASSES = 6
"""Passes of the network for a pair: of each picture the reference, forward and, under adapters,
half of a usual backward pass, which counts as two."""
_STABLE_DIFFUSION = pipelines.SIZES["real"]._replace(width=320)


def gmacs(run: Callable[[], object]) -> float:
    """Multiplications of what runs, in 10^9; normalisations and other elementwise work are none."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


def costs() -> dict[str, dict[str, float]]:
    """By model: weights of its network, and 10^9 multiplications of its parts for a picture."""
    size = pipelines.SIZES["real"]
    with torch.device("meta"):
        found = {
            "UNet of this benchmark": pipelines.stable_diffusion(size)[0],
            "DiT of this benchmark": pipelines.stable_diffusion_3(size)[0],
            "Stable Diffusion 1.5": pipelines.stable_diffusion(_STABLE_DIFFUSION)[0],
        }
    names = {
        "SDXL-Turbo": "sdxl-turbo",
        "Stable Diffusion 3.5 medium": "stable-diffusion-3.5-medium",
    }
    names |= {"FLUX.1-dev": "FLUX.1-dev"}
    found |= {name: build_meta_pipeline(key) for name, key in names.items()}
    return {name: _costs(pipeline) for name, pipeline in found.items()}


def _costs(pipeline: Any) -> dict[str, float]:
    network: Any = getattr(pipeline, "transformer", None) or pipeline.unet
    pixels = torch.empty(1, 3, 512, 512, device="meta")
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "network": gmacs(lambda: network(**_inputs(network))),
        "vae": gmacs(lambda: pipeline.vae.encode(pixels)),
        "text": sum(
            _text(pipeline, name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")
        ),
    }


def _inputs(network: Any) -> dict[str, Any]:
    """Inputs of a network for one picture of 512 x 512 pixels."""
    config = network.config

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(1, *shape, device="meta")

    timestep = torch.empty(1, device="meta")
    if "Flux" in type(network).__name__:
        ids = {
            "img_ids": torch.empty(1024, 3, device="meta"),
            "txt_ids": torch.empty(512, 3, device="meta"),
        }
        given = {"hidden_states": empty(1024, 64), "guidance": timestep, **ids}
        texts = {"encoder_hidden_states": empty(512, 4096), "pooled_projections": empty(768)}
        return {**given, **texts, "timestep": timestep}
    if "SD3" in type(network).__name__:
        texts = {"encoder_hidden_states": empty(333, config.joint_attention_dim)}
        texts["pooled_projections"] = empty(config.pooled_projection_dim)
        return {"hidden_states": empty(16, 64, 64), "timestep": timestep, **texts}
    more: dict[str, Any] = {}
    if config.addition_embed_type == "text_time":
        more = {"added_cond_kwargs": {"text_embeds": empty(1280), "time_ids": empty(6)}}
    hidden = empty(77, config.cross_attention_dim)
    return {
        "sample": empty(4, 64, 64),
        "timestep": timestep,
        "encoder_hidden_states": hidden,
        **more,
    }


def _text(pipeline: Any, name: str) -> float:
    """A multiplication for each weight and token, without those of embeddings."""
    encoder = getattr(pipeline, name, None)
    if encoder is None:
        return 0.0
    weights = sum(weight.numel() for weight in encoder.parameters())
    weights -= encoder.get_input_embeddings().weight.numel()
    is_t5, is_flux = "T5" in type(encoder).__name__, "Flux" in type(pipeline).__name__
    return weights * ((512 if is_flux else 256) if is_t5 else 77) / 1e9


def ratios(cost: dict[str, float]) -> dict[str, float]:
    """Published to ours: of a step, and of a training with encoding once included."""
    ours = _PASSES * cost["network"]
    encoding = 2 * cost["vae"] + cost["text"]
    published = ours + encoding
    return {
        "step": published / ours,
        "training": EPOCHS * published / (EPOCHS * ours + encoding),
    }
