"""Text encoders and autoencoders that several families share, with weights large enough to see."""

import torch
from diffusers import AutoencoderKL
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.unified_reward.policies.pipelines import WIDTH, tokenizer


def widen(network, std=0.3):
    """Draw the matrices of a network anew, also those that are zero at initialisation.

    Returns:
        The network, without dropout, like any that was loaded.
    """
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(0, std)
    return network.eval()


def autoencoder(levels, **changes):
    """Build an autoencoder of images whose sides are 2 ** (levels - 1) times those of latents."""
    return AutoencoderKL(
        block_out_channels=(4,) * (levels - 2) + (8, 8),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=2,
        **{"latent_channels": 4} | changes,
    )


def t5(**changes):
    return T5EncoderModel(T5Config(**_T5 | changes)).eval()


def umt5():
    return UMT5EncoderModel(UMT5Config(**_T5)).eval()


def gemma():
    return GemmaModel(GemmaConfig(**_DECODER)).eval()


def gemma2():
    return Gemma2Model(Gemma2Config(**_DECODER, query_pre_attn_scalar=8)).eval()


def glm():
    return GlmModel(GlmConfig(**_DECODER)).eval()


def qwen2_5_vl():
    config = Qwen2_5_VLConfig(
        text_config=_DECODER
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
    return widen(Qwen2_5_VLForConditionalGeneration(config))


_T5 = {
    "vocab_size": len(tokenizer()),
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": WIDTH,
    "num_layers": 1,
    "num_heads": 2,
    "pad_token_id": 1,
    "eos_token_id": 1,
}
_DECODER = {
    "vocab_size": len(tokenizer()),
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
