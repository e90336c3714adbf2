"""The tiny generators of the microworld: ordinary diffusers pipelines, taught from nothing.

Images are drawn by a Stable Diffusion (UNet, v-prediction), videos by a Wan (transformer, flow).
Knows nothing of preferences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from rich.progress import track
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, UMT5Config, UMT5EncoderModel

from unified_reward.policies import Denoising, write_defaults
from unified_reward.train.denoisers import Denoiser, build_denoiser
from unified_reward.train.losses import add_noise, denoising_error, denoising_target
from unified_reward.train.optim import build_muon
from unified_reward_lab.microworld.render import FPS, SIDE_PX
from unified_reward_lab.train.autoencoders import (
    AutoencoderTraining,
    build_image_autoencoder,
    build_video_autoencoder,
    drawn,
    frame_by_frame,
    train_autoencoder,
)
from unified_reward_lab.train.tiny import build_tokenizer


_WIDTH = 96
_PROMPT_TOKENS = 40
_VOCABULARY = 400
_SAMPLING = {
    "image": Denoising(steps=8, guidance=1.0),
    "video": Denoising(
        steps=8,
        guidance=1.0,
        height=SIDE_PX,
        width=SIDE_PX,
        frames=8,
        fps=FPS,
        prompt_tokens=_PROMPT_TOKENS,
    ),
}


@dataclass(frozen=True)
class GeneratorTraining:
    """How a tiny generator is made."""

    medium: Literal["image", "video"]
    autoencoder: AutoencoderTraining
    steps: int
    """Of the denoiser, > 0."""
    items: int = 30_000
    """Captions with what they say, encoded once and drawn from."""
    batch_size: int = 64
    lr: float = 1e-3
    """Peak learning rate; one cycle."""
    muon_lr: float = 0.0
    """Peak learning rate of hidden matrices under Muon; 0 leaves them to AdamW too."""
    averaged: float = 0.999
    """Decay of the average of weights that is kept, in [0, 1)."""
    seed: int = 0


def build_generator(medium: Literal["image", "video"], tokenizer: Any) -> Any:
    """A pipeline with random weights; seed torch before."""
    tokenizer.model_max_length = _PROMPT_TOKENS
    ends: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.pad_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return _of_images(tokenizer, ends) if medium == "image" else _of_videos(tokenizer, ends)


def _of_videos(tokenizer: Any, ends: dict[str, Any]) -> WanPipeline:
    heads = 4
    size = _WIDTH // heads
    # Wan's own; the annotation of its pipeline names another class.
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=4.0
    )
    text = UMT5Config(
        d_model=_WIDTH, d_kv=size, d_ff=2 * _WIDTH, num_layers=2, num_heads=heads, **ends
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text),
        vae=build_video_autoencoder(),
        scheduler=scheduler,
        transformer=WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=size,
            in_channels=8,
            out_channels=8,
            text_dim=_WIDTH,
            freq_dim=64,
            ffn_dim=4 * _WIDTH,
            num_layers=6,
            rope_max_seq_len=64,
        ),
    )


def _of_images(tokenizer: Any, ends: dict[str, Any]) -> StableDiffusionPipeline:
    text = CLIPTextConfig(
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_PROMPT_TOKENS,
        **ends,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 64),
        layers_per_block=1,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )
    unchecked: Any = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return StableDiffusionPipeline(
        vae=build_image_autoencoder(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        **unchecked,
    )


def train_generator(config: GeneratorTraining, out: Path) -> list[tuple[int, float]]:
    """Teach a tiny generator to draw what captions of the training split say, and write it.

    First the autoencoder; then captions and latents are made once; then denoiser and text encoder
    learn together. Weights are written in half precision.

    Args:
        config: What is made.
        out: Folder of the pipeline.

    Returns:
        Loss by step of the denoiser: mean squared error of its prediction.
    """
    torch.manual_seed(config.seed)
    is_video = config.medium == "video"
    series = (drawn(i, is_video=is_video, seed=config.seed + 1)[0] for i in range(20_000))
    pipeline = build_generator(config.medium, build_tokenizer(series, vocabulary=_VOCABULARY))
    train_autoencoder(pipeline.vae, config.autoencoder)
    denoiser = build_denoiser(pipeline, _SAMPLING[config.medium].prompt_tokens)
    captions, latents = _encoded(denoiser, config, is_video=is_video)
    losses = _teach_denoiser(denoiser, captions, latents, config)
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    write_defaults(_SAMPLING[config.medium], out)
    return losses


@torch.inference_mode()
def _encoded(
    denoiser: Denoiser, config: GeneratorTraining, *, is_video: bool
) -> tuple[list[str], Tensor]:
    """Captions and their latents, which the autoencoder now scales to unit variance."""
    captions: list[str] = []
    latents: list[Tensor] = []
    vae = denoiser.pipeline.vae.eval()
    with frame_by_frame(vae):
        for start in track(range(0, config.items, 32), description="encoding"):
            rows = range(start, min(start + 32, config.items))
            made = [drawn(i, is_video=is_video, seed=config.seed + 1) for i in rows]
            captions += [caption for caption, _ in made]
            latents.append(denoiser.encode_pixels(torch.stack([pixels for _, pixels in made])))
    told = torch.cat(latents)
    if is_video:
        mean, std = told.mean((0, 2, 3, 4)), told.std((0, 2, 3, 4))
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        told = (told - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)
    else:
        vae.register_to_config(scaling_factor=float(1 / told.std()))
        told = told / told.std()
    return captions, told


def _teach_denoiser(
    denoiser: Denoiser, captions: list[str], latents: Tensor, config: GeneratorTraining
) -> list[tuple[int, float]]:
    pipeline = denoiser.pipeline
    learned = torch.nn.ModuleList([denoiser.network, pipeline.text_encoder])
    average = AveragedModel(learned, multi_avg_fn=get_ema_multi_avg_fn(config.averaged))
    if config.muon_lr:
        network = denoiser.network
        ends = {one.weight for name, one in network.named_modules() if name == "proj_out"}
        rates = {"lr": config.lr, "muon_lr": config.muon_lr}
        optimiser: Any = build_muon(learned, ends, **rates, weight_decay=0.01)
    else:
        optimiser = torch.optim.AdamW(
            learned.parameters(), config.lr, (0.9, 0.99), weight_decay=0.01
        )
    peaks = [group["lr"] for group in optimiser.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peaks, config.steps, pct_start=0.05, cycle_momentum=not config.muon_lr
    )
    drawing = torch.Generator().manual_seed(config.seed)
    plan = denoiser.schedule
    losses: list[tuple[int, float]] = []
    for step in track(range(config.steps), description="teaching the denoiser"):
        rows = torch.randint(len(captions), (config.batch_size,), generator=drawing)
        places = torch.randint(len(plan.alpha), (config.batch_size,), generator=drawing)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=drawing)
        alpha, sigma = plan.alpha[places].float(), plan.sigma[places].float()
        condition = denoiser.encode_prompts([captions[i] for i in rows.tolist()])
        noisy = add_noise(clean, noise, alpha, sigma)
        told = denoiser.predict(noisy, plan.timestep[places], condition)
        target = denoising_target(plan.prediction_type, clean, noise, alpha, sigma)
        loss = denoising_error(told, target).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(learned)
        losses.append((step + 1, float(loss.detach())))
    learned.load_state_dict(average.module.state_dict())
    return losses
