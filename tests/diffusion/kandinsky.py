"""Kandinsky 3, whose autoencoder is called MoVQ."""

import torch
from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel

from tests.diffusion.encoders import t5, widen
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.pipelines import WIDTH, tokenizer
from unified_reward.policies import Denoising


def kandinsky_3():
    torch.manual_seed(0)
    return Kandinsky3Pipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        unet=widen(
            Kandinsky3UNet(
                time_embedding_dim=16,
                groups=4,
                attention_head_dim=8,
                layers_per_block=2,
                block_out_channels=(16, 16, 16, 16),
                cross_attention_dim=16,
                encoder_hid_dim=WIDTH,
            ),
            std=0.15,
        ),
        movq=VQModel(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            num_vq_embeddings=16,
            norm_num_groups=32,
            vq_embed_dim=4,
            norm_type="spatial",
        ).eval(),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            clip_sample=True,
            clip_sample_range=2.0,
            thresholding=True,
            variance_type="fixed_small",
        ),
    )


PIPELINES = {
    "Kandinsky3Pipeline": Tiny(kandinsky_3, Denoising(steps=3, guidance=3.0, height=64, width=128)),
}
