"""FLUX.1, Chroma and FLUX.2."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
)

from tests import tiny
from tests.architectures.mistral import mistral3_parts
from tests.diffusion.text import chat_processor, qwen3, slim
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import flux_parts, flux_transformer, varied
from unified_reward.policies import Denoising


def flux():
    return varied(FluxPipeline(**flux_parts()))


def kontext():
    return varied(FluxKontextPipeline(**flux_parts()))


def schnell():
    parts = flux_parts(
        transformer=flux_transformer(guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )
    return varied(FluxPipeline(**parts))


def chroma():
    parts = flux_parts()
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=pipelines.WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return varied(
        ChromaPipeline(
            tokenizer=parts["tokenizer_2"],
            text_encoder=parts["text_encoder_2"],
            transformer=transformer,
            vae=parts["vae"],
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        )
    )


def flux_2():
    """FLUX.2 dev; it reads layers 10, 20 and 30 of its text encoder."""
    torch.manual_seed(0)
    model, processor = mistral3_parts(**slim(30) | {"hidden_size": 16})
    return varied(
        Flux2Pipeline(
            tokenizer=processor,
            text_encoder=tiny.enlarge(model),
            transformer=_flux_2_transformer(3 * 16, guidance_embeds=True),
            **flux_2_parts(),
        )
    )


def flux_2_klein():
    """FLUX.2 klein; it reads layers 9, 18 and 27 of its text encoder."""
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    return varied(
        Flux2KleinPipeline(
            tokenizer=tokenizer,
            text_encoder=qwen3(tokenizer, **slim(27)),
            transformer=_flux_2_transformer(3 * 8, guidance_embeds=False),
            **flux_2_parts(),
        )
    )


def _flux_2_transformer(width, *, guidance_embeds):
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=width,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def flux_2_parts():
    vae = AutoencoderKLFlux2(
        block_out_channels=pipelines.CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
    )
    vae.bn.running_mean.uniform_(-0.3, 0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "scheduler": scheduler}


_SIZE = {"steps": 3, "height": 16, "width": 24}
PIPELINES = {
    "FluxPipeline": Tiny(flux, Denoising(**_SIZE, guidance=3.5, prompt_tokens=20)),
    "FluxPipeline schnell": Tiny(schnell, Denoising(**_SIZE, prompt_tokens=20)),
    "FluxKontextPipeline": Tiny(kontext, Denoising(**_SIZE, guidance=2.5, prompt_tokens=20)),
    "ChromaPipeline": Tiny(chroma, Denoising(**_SIZE, guidance=3.0, prompt_tokens=20)),
    "Flux2Pipeline": Tiny(flux_2, Denoising(**_SIZE, guidance=4.0, prompt_tokens=192)),
    "Flux2KleinPipeline": Tiny(flux_2_klein, Denoising(**_SIZE, guidance=3.0, prompt_tokens=40)),
}
