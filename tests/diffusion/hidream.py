"""HiDream-I1 and OmniGen."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
)
from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

from tests import tiny
from tests.architectures.tokenizers import train_tokenizer
from tests.diffusion.text import chat_processor
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.editors import flux_parts, varied
from unified_reward.policies import Denoising


def hidream():
    """HiDream-I1, a mixture of experts; its latents are 128 x 128 whatever the size."""
    parts = flux_parts()
    tokenizer = train_tokenizer([], bos="<s>", eos="</s>", pad="<pad>")
    config = LlamaConfig(**tiny.text_config(tokenizer))
    pipeline = HiDreamImagePipeline(
        tokenizer=pipelines.tokenizer(),
        tokenizer_2=pipelines.tokenizer(),
        tokenizer_3=parts["tokenizer_2"],
        tokenizer_4=tokenizer,
        text_encoder=pipelines.text(CLIPTextModelWithProjection),
        text_encoder_2=pipelines.text(CLIPTextModelWithProjection),
        text_encoder_3=parts["text_encoder_2"],
        text_encoder_4=tiny.enlarge(LlamaForCausalLM(config)),
        transformer=HiDreamImageTransformer2DModel(
            patch_size=16,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[pipelines.WIDTH, 32],
            text_emb_dim=2 * pipelines.WIDTH,
            axes_dims_rope=(4, 6, 6),
            llama_layers=[0, 1],
        ).eval(),
        vae=AutoencoderKL(
            block_out_channels=(4,),
            latent_channels=4,
            norm_num_groups=2,
            sample_size=128,
            mid_block_add_attention=False,
            scaling_factor=1.5,
            shift_factor=0.06,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return varied(pipeline)


def omnigen():
    """OmniGen: its transformer reads tokens, time runs from 0 to 1, 8 pixels are one latent."""
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    pipeline = OmniGenPipeline(
        tokenizer=tokenizer,
        transformer=OmniGenTransformer2DModel(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=32,
            num_layers=1,
            pad_token_id=tokenizer.pad_token_id,
            vocab_size=len(tokenizer),
            rope_scaling={"short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
            pos_embed_max_size=16,
            time_step_dim=16,
        ),
        vae=AutoencoderKL(
            block_out_channels=(4,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=2,
            scaling_factor=1.5,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
    )
    return varied(pipeline)


PIPELINES = {
    "HiDreamImagePipeline": Tiny(
        hidream, Denoising(steps=3, guidance=3.0, height=16, width=16, prompt_tokens=20)
    ),
    "OmniGenPipeline": Tiny(omnigen, Denoising(steps=3, guidance=3.0, height=32, width=48)),
}
