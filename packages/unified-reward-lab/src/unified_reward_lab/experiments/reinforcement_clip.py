"""A tiny CLIP of the microworld: the reward that knows images and captions, but no judgements.

Trained by contrast alone (Radford et al. 2021, arXiv:2103.00020), on rendered scenes with captions
of the training split. The folder opens as ``clip-cosine:FOLDER``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from unified_reward.core.extensions import checkpoint_path
from unified_reward.io.text import read_text
from unified_reward.scorers.clipscore import CLIPCosine
from unified_reward_lab.microworld.candidate_scenes import (
    add_random_flaw,
    keyed_rng,
    random_scene_with_caption,
)


_BEGIN, _END = "<start_of_text>", "<end_of_text>"
_PATCH = 28
"""Pixels of a patch at 224 pixels a side: an eighth of it, as in the microworld's judges."""


@dataclass(frozen=True)
class ClipTraining:
    """Settings of the training."""

    steps: int = 1500
    batch_size: int = 128
    """Images with captions, each of which is a wrong one for all the others."""
    lr: float = 1e-3
    width: int = 128
    layers: tuple[int, int] = (3, 2)
    """Layers of the vision tower and of the text tower."""
    flawed: float = 0.2
    """Share of images with a flaw, in [0, 1]."""
    seed: int = 0


def train_clip(config: ClipTraining, out: Path) -> list[float]:
    """Train a CLIP and write it to a folder.

    Returns:
        Loss by step, in nats.
    """
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    model: Any = CLIPModel(_sizes(config, tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    losses: list[float] = []
    for step in track(range(config.steps), "contrast"):
        pixels, captions = _batch(config, step)
        tokens = tokenizer(captions, return_tensors="pt", padding=True)
        loss = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=CLIPCosine.fit_tensor(pixels),
            return_loss=True,
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return losses


def _batch(config: ClipTraining, step: int) -> tuple[Tensor, Sequence[str]]:
    """Images in [0, 1], shape (B, 3, H, W), with captions."""
    images, captions = [], []
    for i in range(config.batch_size):
        rng = keyed_rng("clip", config.seed, step, i)
        scene, caption = random_scene_with_caption(rng, split="train", is_video=False)
        image = add_random_flaw(scene, rng, p_flaw=config.flawed).render(rng)
        images.append(np.asarray(image.source))
        captions.append(caption.text)
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255, captions


def _tokenizer() -> Any:
    """Tokenizer of ``tiny_image`` with CLIP's begin and end, the highest ids."""
    content = json.loads(read_text(checkpoint_path("tiny_image") / "tokenizer" / "tokenizer.json"))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([_BEGIN, _END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (_BEGIN, _END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_END,
        model_max_length=77,
    )


def _sizes(config: ClipTraining, tokenizer: Any) -> CLIPConfig:
    tower = {
        "hidden_size": config.width,
        "intermediate_size": 3 * config.width,
        "num_attention_heads": 4,
        "projection_dim": config.width,
    }
    vision, text = config.layers
    return CLIPConfig(
        vision_config={**tower, "num_hidden_layers": vision, "patch_size": _PATCH},
        text_config={
            **tower,
            "num_hidden_layers": text,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=config.width,
    )
