"""Ideogram 4 and ERNIE-Image, with the VAE of FLUX.2."""

import torch
from diffusers import (
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
)
from transformers import Qwen3VLModel

from tests import tiny
from tests.architectures.mistral import mistral3_parts
from tests.diffusion.flux import flux_2_parts
from tests.diffusion.text import chat_processor, qwen3_vl, slim
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies.editors import varied
from unified_reward.policies import Denoising


def ideogram_4():
    """Ideogram 4: it reads 13 of 36 layers, and guidance has a network of its own."""
    torch.manual_seed(0)
    tokenizer = chat_processor().tokenizer
    networks = [
        Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * 8,
            mrope_section=(4, 2, 2),
        )
        for _ in range(2)
    ]
    pipeline = Ideogram4Pipeline(
        tokenizer=tokenizer,
        text_encoder=qwen3_vl(tokenizer, kind=Qwen3VLModel, **slim(36)),
        transformer=networks[0],
        unconditional_transformer=networks[1],
        **_parts(),
    )
    return varied(pipeline)


def ernie():
    torch.manual_seed(0)
    model, processor = mistral3_parts()
    pipeline = ErnieImagePipeline(
        tokenizer=processor.tokenizer,
        text_encoder=tiny.enlarge(model.model),
        transformer=ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=32,
            rope_axes_dim=(4, 6, 6),
        ),
        **_parts(),
    )
    return varied(pipeline)


def _parts():
    return flux_2_parts() | {"scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


_SIZE = {"steps": 3, "guidance": 3.0, "height": 16, "width": 24}
PIPELINES = {
    "Ideogram4Pipeline": Tiny(ideogram_4, Denoising(**_SIZE, prompt_tokens=40)),
    "ErnieImagePipeline": Tiny(ernie, Denoising(**_SIZE)),
}
