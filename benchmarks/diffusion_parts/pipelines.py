"""Random pipelines with the proportions of published ones, at real sizes and at tiny ones.

Nothing is downloaded: configurations stand here, and tokenizers are of letters.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image as Pillow
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from unified_reward.core.samples import Image, PreferencePair, Task
from unified_reward.policies import Denoising
from unified_reward.policies.autoencoders import isolate
from unified_reward.policies.diffusion import DiffusionPolicy


TOKENS = 77


class Size(NamedTuple):
    """Size of the networks of a random pipeline."""

    side: int
    """Sides of an image in pixels; 8 of them are a latent position."""
    width: int
    """Channels of the first level of a UNet."""
    heads: int
    """Heads of a transformer, of 64 channels each."""
    layers: int
    """Layers of a transformer."""
    vae: tuple[int, ...]
    """Channels of the autoencoder by level."""
    text_width: int
    text_layers: int
    steps: int
    """Denoising steps of a sample."""


SIZES = {
    "real": Size(512, 80, 6, 12, (128, 256, 512, 512), 768, 12, 10),
    "tiny": Size(64, 16, 1, 1, (8, 8, 16, 16), 16, 1, 4),
}
"""Real: 57 and 63 million weights; autoencoder and text encoder of Stable Diffusion 1 and 3."""


def tokenizer() -> CLIPTokenizer:
    """A tokenizer of letters and digits."""
    signs = string.ascii_lowercase + string.digits
    words = ["<|startoftext|>", "<|endoftext|>", *signs, *(f"{sign}</w>" for sign in signs)]
    return CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=TOKENS)


def _text(kind: Any, width: int, layers: int) -> Any:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config).eval()


def _vae(size: Size, channels: int, **changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae,
        layers_per_block=2,
        latent_channels=channels,
        norm_num_groups=min(32, size.vae[0]),
        **changes,
    ).eval()


def stable_diffusion(size: Size) -> tuple[Any, Denoising]:
    """Stable Diffusion 1 with fewer channels; heads are as wide as its narrowest, 40."""
    width = size.width
    head = min(40, width)
    unet = UNet2DConditionModel(
        sample_size=size.side // 8,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        attention_head_dim=tuple(k * width // head for k in (1, 2, 4, 4)),
        cross_attention_dim=size.text_width,
        norm_num_groups=16,
    )
    pipeline = StableDiffusionPipeline(
        vae=_vae(size, 4, scaling_factor=0.18215),
        text_encoder=_text(CLIPTextModel, size.text_width, size.text_layers),
        tokenizer=tokenizer(),
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, Denoising(steps=size.steps, guidance=1.0, height=size.side, width=size.side)


def stable_diffusion_3(size: Size) -> tuple[Any, Denoising]:
    """Stable Diffusion 3 with fewer and narrower layers, and without its third text encoder."""
    inner = 64 * size.heads
    network = SD3Transformer2DModel(
        sample_size=size.side // 8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=size.layers,
        attention_head_dim=64,
        num_attention_heads=size.heads,
        caption_projection_dim=inner,
        joint_attention_dim=2 * size.text_width,
        pooled_projection_dim=2 * size.text_width,
        pos_embed_max_size=96,
    )
    texts = [
        _text(CLIPTextModelWithProjection, size.text_width, size.text_layers) for _ in range(2)
    ]
    vae = {"scaling_factor": 1.5305, "shift_factor": 0.0609}
    pipeline = StableDiffusion3Pipeline(
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=None,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        text_encoder_3=None,
        transformer=network.eval(),
        vae=_vae(size, 16, use_quant_conv=False, use_post_quant_conv=False, **vae),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    sampling = Denoising(size.steps, 1.0, size.side, size.side, prompt_tokens=TOKENS)
    return pipeline, sampling


def flux(name: str, device: str) -> tuple[Any, Denoising]:
    """FLUX.1-dev in bfloat16 on a device, with its transformer and autoencoder in full size.

    Its text encoders are as wide as the published ones, of one layer.

    Args:
        name: ``real`` or ``tiny``.
        device: Device that the weights are made on.
    """
    size, is_real = SIZES[name], name == "real"
    joint, pooled = (4096, 768) if is_real else (32, 16)
    blocks = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24}
    small = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}
    axes = {} if is_real else {"attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    config = T5Config(d_model=joint, d_ff=joint, num_layers=1, num_heads=4, vocab_size=128)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            network = FluxTransformer2DModel(
                in_channels=64,
                guidance_embeds=True,
                joint_attention_dim=joint,
                pooled_projection_dim=pooled,
                **(blocks if is_real else small),
                **axes,
            )
            texts = _text(CLIPTextModel, pooled, 1), T5EncoderModel(config).eval()
    finally:
        torch.set_default_dtype(before)
    vae = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    with torch.device(device):
        autoencoder = _vae(size, 16, use_quant_conv=False, use_post_quant_conv=False, **vae)
    isolate(autoencoder)
    pipeline = FluxPipeline(
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        transformer=network.eval(),
        vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    tokens = 512 if is_real else 24
    sampling = Denoising(6 if is_real else 4, 3.5, size.side, size.side, prompt_tokens=tokens)
    return pipeline, sampling


BUILDERS = {"unet": stable_diffusion, "dit": stable_diffusion_3}


def policy(kind: str, size: Size) -> DiffusionPolicy:
    """Random policy with a ``unet`` or ``dit``, always the same, in float32 on the CPU."""
    torch.manual_seed(0)
    return wrap(*BUILDERS[kind](size), kind)


def wrap(pipeline: Any, sampling: Denoising, name: str) -> DiffusionPolicy:
    """Policy of a pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionPolicy(pipeline, sampling, name=name, batch_size=1)


def noise_pairs(n: int, side: int, folder: Path) -> list[PreferencePair]:
    """Pairs of pictures of noise in files; what is in them does not matter to speed."""
    rng = np.random.default_rng(0)
    pairs: list[PreferencePair] = []
    for i in range(n):
        images: list[Image] = []
        for which in ("chosen", "rejected"):
            path = folder / f"{which}-{i}.png"
            Pillow.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(path)
            images.append(Image(path))
        task, prompt = Task.IMAGE_GENERATION, f"{i} large red stars at the top left"
        pairs.append(PreferencePair(f"p{i}", task, prompt, (), images[0], images[1], None, None))
    return pairs
