"""Text encoders, tokenizers and weights of random tiny video pipelines."""

import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from tests.unified_reward.policies.pipelines import WIDTH, text, tokenizer


MEAN = [0.1, -0.2, 0.3, 0.0]
STD = [1.5, 0.5, 2.0, 1.0]
CHAT = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}{{ part.text }}{%- endfor -%}{%- endif -%}"
    "<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_PAD, _END, _START = "<|endoftext|>", "<|im_end|>", "<|im_start|>"


def t5(words=None):
    """T5 encoder of the letters of `tokenizer()`, or of another tokenizer."""
    words = words or tokenizer()
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=WIDTH,
            d_kv=8,
            d_ff=WIDTH,
            num_layers=1,
            num_heads=2,
            pad_token_id=1,
            eos_token_id=1,
            decoder_start_token_id=1,
        )
    )


def byte_tokenizer():
    """Tokenizer of chats; a byte is one token, so templates are longer than the released ones."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 3,
        special_tokens=[_PAD, _END, _START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=_END,
        pad_token=_PAD,
        additional_special_tokens=[_START],
        chat_template=CHAT,
        padding_side="right",
    )


def text_settings(words, *, layers=1):
    """Settings of a language model with the vocabulary of a tokenizer."""
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
    }


def llama(words, *, layers=3):
    return vary(LlamaModel(LlamaConfig(**text_settings(words, layers=layers))))


def qwen2_5_vl_text(words, *, layers=3):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    settings = text_settings(words, layers=layers) | {"rope_parameters": rope}
    return vary(Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**settings)))


def wan_vae(*, patch=None):
    """Wan's VAE; it makes 4 times `patch` pixels of a side, and 4 frames after the first."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=MEAN,
        latents_std=STD,
        in_channels=3 * (patch or 1) ** 2,
        out_channels=3 * (patch or 1) ** 2,
        patch_size=patch,
        scale_factor_temporal=4,
        scale_factor_spatial=4 * (patch or 1),
    )


def hunyuan_vae():
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
        mid_block_add_attention=False,
    )


def vary(network, gain=1.0):
    """Draw weights of two and more dimensions anew, so that no layer or gate is zero."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(0, gain * weight[0].numel() ** -0.5)
    return network


def long_clip(kind):
    """CLIP text encoder of the 77 tokens that some pipelines pad a prompt to."""
    config = text(kind).config
    config.max_position_embeddings = 77
    return kind(config)


def evaluated(pipeline):
    """Switch off dropout, as loading does."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline
