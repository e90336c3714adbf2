"""Pipelines and noise for the benchmark of DPO: the laboratory's tiny ones, and random wider ones.

Nothing here depends on how pipelines are trained, so that older code can be measured too.
"""

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image as Pillow
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, UMT5Config, UMT5EncoderModel

from unified_reward import policies
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.policies import Denoising
from unified_reward.policies.diffusion import DiffusionPolicy


TEXT_WIDTH = 128
TOKENS = 40
TINY = ("tiny_image", "tiny_video")


def load(name, width):
    """A policy on the CPU: a shipped one by name, or a random pipeline of so many channels."""
    if name in TINY:
        return policies.load(checkpoint_path(name), device="cpu", dtype="float32")
    pipeline, sampling = RANDOM[name](width)
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionPolicy(pipeline, sampling, name=name, batch_size=1)


def _tokenizer():
    return policies.load(checkpoint_path("tiny_image"), device="cpu").pipeline.tokenizer


def _text(kind, tokenizer, width=TEXT_WIDTH):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    return kind(config)


def _vae(channels, **changes):
    """An autoencoder with a latent position for 8 x 8 pixels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=channels,
        **changes,
    )


def stable_diffusion_3(width):
    """Stable Diffusion 3 on latents of 16 x 16, without its third text encoder."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    pipeline = StableDiffusion3Pipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        text_encoder=_text(CLIPTextModelWithProjection, tokenizer),
        text_encoder_2=_text(CLIPTextModelWithProjection, tokenizer),
        text_encoder_3=None,
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=4,
            attention_head_dim=64,
            num_attention_heads=width // 64,
            caption_projection_dim=width,
            joint_attention_dim=2 * TEXT_WIDTH,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=16,
        ),
        vae=_vae(16, scaling_factor=1.5, shift_factor=0.06),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return pipeline, Denoising(height=128, width=128, prompt_tokens=TOKENS)


def wan(width):
    """Wan on 2 latent frames of 16 x 16."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=4 * TEXT_WIDTH,
        num_layers=6,
        num_heads=8,
        pad_token_id=0,
        eos_token_id=2,
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(config),
        transformer=WanTransformer3DModel(
            num_attention_heads=width // 64,
            attention_head_dim=64,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_WIDTH,
            freq_dim=256,
            ffn_dim=4 * width,
            num_layers=8,
            rope_max_seq_len=64,
        ),
        vae=AutoencoderKLWan(base_dim=16, z_dim=16),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return pipeline, Denoising(height=128, width=128, frames=5, prompt_tokens=TOKENS)


RANDOM = {
    "stable_diffusion_3": stable_diffusion_3,
    "wan": wan,
}


def noise_pairs(policy, n, folder):
    """Pairs of noise of the policy's size, in files; what is in them does not matter to speed."""
    rng, options = np.random.default_rng(0), policy.options
    height, width = options.height or 64, options.width or 64
    frames, task = options.frames, policy.tasks[0]
    pairs = []
    for i in range(n):
        sides = []
        for side in ("chosen", "rejected"):
            pixels = rng.integers(0, 255, (frames or 1, height, width, 3), np.uint8)
            if task is Task.VIDEO_GENERATION:
                sides.append(Video(pixels, "THWC", 8.0))
                continue
            path = folder / f"{side}-{i}.png"
            Pillow.fromarray(pixels[0]).save(path)
            sides.append(Image(path))
        prompt = f"{i} large red stars at the top left"
        pairs.append(PreferencePair(f"p{i}", task, prompt, (), *sides, None, None))
    return pairs
