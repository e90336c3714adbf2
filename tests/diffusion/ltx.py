"""LTX-Video and LTX-2."""

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

from tests.diffusion import video_parts
from tests.diffusion.tiny import Tiny
from tests.diffusion.video_parts import MEAN, STD, evaluated, vary
from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising


def _autoencoder(kind, **options):
    vae = kind(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        upsample_factor=(1, 1),
        patch_size=2,
        scaling_factor=0.7,
        **options,
    )
    vae.latents_mean.copy_(torch.tensor(MEAN))
    vae.latents_std.copy_(torch.tensor(STD))
    return vae


def ltx():
    torch.manual_seed(0)
    vae = _autoencoder(
        AutoencoderKLLTXVideo,
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
    )
    return evaluated(
        LTXPipeline(
            tokenizer=pipelines.tokenizer(),
            text_encoder=video_parts.t5(),
            transformer=vary(
                LTXVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    num_layers=2,
                    caption_channels=pipelines.WIDTH,
                )
            ),
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=1024,
                shift_terminal=0.1,
            ),
        )
    )


def ltx_2():
    """LTX-2, which samples sound beside the video."""
    torch.manual_seed(0)
    words = video_parts.byte_tokenizer()
    vae = _autoencoder(
        AutoencoderKLLTX2Video,
        down_block_types=("LTX2VideoDownBlock3D",) * 2,
        downsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_residual=(True, True),
    )
    return evaluated(
        LTX2Pipeline(
            tokenizer=words,
            text_encoder=video_parts.llama(words, layers=2),
            connectors=LTX2TextConnectors(
                caption_channels=pipelines.WIDTH,
                text_proj_in_factor=3,
                video_connector_num_attention_heads=2,
                video_connector_attention_head_dim=8,
                video_connector_num_layers=1,
                video_connector_num_learnable_registers=None,
                audio_connector_num_attention_heads=2,
                audio_connector_attention_head_dim=8,
                audio_connector_num_layers=1,
                audio_connector_num_learnable_registers=None,
            ),
            transformer=vary(
                LTX2VideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    vae_scale_factors=(4, 8, 8),
                    audio_in_channels=8,
                    audio_out_channels=8,
                    audio_num_attention_heads=2,
                    audio_attention_head_dim=8,
                    audio_cross_attention_dim=16,
                    num_layers=2,
                    caption_channels=pipelines.WIDTH,
                )
            ),
            vae=vae,
            audio_vae=AutoencoderKLLTX2Audio(
                base_channels=8,
                ch_mult=(1, 2, 4),
                num_res_blocks=1,
                resolution=32,
                latent_channels=2,
                mel_bins=16,
            ),
            vocoder=LTX2Vocoder(
                in_channels=32,
                hidden_channels=16,
                upsample_kernel_sizes=[4, 4],
                upsample_factors=[2, 2],
                resnet_kernel_sizes=[3],
                resnet_dilations=[[1]],
                output_sampling_rate=16000,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=1024,
                shift_terminal=0.1,
            ),
        )
    )


PIPELINES = {
    "LTXPipeline": Tiny(
        ltx,
        Denoising(steps=3, guidance=3.0, height=32, width=64, frames=9, fps=8.0, prompt_tokens=20),
    ),
    "LTX2Pipeline": Tiny(
        ltx_2,
        Denoising(steps=3, guidance=3.0, height=32, width=64, frames=9, fps=8.0, prompt_tokens=20),
    ),
}
