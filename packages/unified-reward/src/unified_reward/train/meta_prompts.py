"""Embeddings in place of a prompt, for pipelines on the meta device, whose encoders read nothing.

Their shapes come from the networks' configurations and the pipeline's longest prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unified_reward.core.errors import ConfigError
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import networks


_WIDTHS = {
    "": (
        "caption_channels",
        "text_embed_dim",
        "cap_feat_dim",
        "text_dim",
        "joint_attention_dim",
        "cross_attention_dim",
    ),
    "_2": ("text_embed_2_dim",),
}
"""Settings of networks with the width of a text encoder's embeddings, the most specific first, by
the ending of the pipeline's arguments."""
_CLIP_TOKENS = 77
_GUIDANCE = ("guidance_scale", "true_cfg_scale", "image_guidance_scale")


def embedded_prompt(policy: DiffusionPolicy, n: int) -> dict[str, Any]:
    """Arguments of a pipeline for n samples in place of a prompt, without guidance.

    Raises:
        ConfigError: The pipeline takes no embeddings, or their width is not known.
    """
    network: Any = next(iter(networks(policy.pipeline).values()))
    config, takes = network.config, policy.takes
    inputs: dict[str, Any] = {"prompt": None, "negative_prompt": None}
    for ending, names in _WIDTHS.items():
        if f"prompt_embeds{ending}" not in takes:
            continue
        width = next((config[name] for name in names if config.get(name)), None)
        if not isinstance(width, int):
            raise ConfigError(
                f"{policy.name}: the {type(network).__name__} does not say how wide its "
                f"prompt_embeds{ending} are, so that it cannot be tried without weights"
            )
        tokens = _tokens(policy, ending)
        embeddings = torch.empty(n, tokens, width, device="meta")
        # Some pipelines take a list with the embeddings of each prompt.
        is_list = str(takes[f"prompt_embeds{ending}"].annotation).startswith("list")
        inputs[f"prompt_embeds{ending}"] = [*embeddings] if is_list else embeddings
        # Masks have numbers, by which some pipelines leave them out.
        masks = (f"prompt_embeds_mask{ending}", f"prompt_attention_mask{ending}")
        inputs |= dict.fromkeys(masks, torch.ones(n, tokens, dtype=torch.bool))
    if "prompt_embeds" not in inputs:
        raise ConfigError(
            f"{policy.name}: a {type(policy.pipeline).__name__} takes no embeddings of a prompt, "
            "so that it cannot be tried without weights"
        )
    if pooled := _pooled_width(config):
        inputs["pooled_prompt_embeds"] = torch.empty(n, pooled, device="meta")
    inputs |= {name: 0.0 for name in _GUIDANCE if name in takes and takes[name].default}
    return {name: value for name, value in inputs.items() if name in takes}


def _tokens(policy: DiffusionPolicy, ending: str) -> int:
    """Longest prompt of a pipeline in tokens."""
    longest = policy.takes.get("max_sequence_length")
    own = getattr(policy.pipeline, f"tokenizer{ending}_max_length", None)
    return policy.options.prompt_tokens or (longest.default if longest else own) or _CLIP_TOKENS


def _pooled_width(config: Mapping[str, Any]) -> int | None:
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * config["addition_time_embed_dim"]
        return config["projection_class_embeddings_input_dim"] - sizes
    return config.get("pooled_projection_dim")
