"""Kolors, a U-Net of Stable Diffusion XL that reads ChatGLM."""

import io
import tempfile
from functools import cache
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, KolorsPipeline
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from sentencepiece import SentencePieceTrainer

from tests.diffusion.encoders import autoencoder, widen
from tests.diffusion.tiny import Tiny
from tests.tiny import TEXTS
from tests.unified_reward.policies.pipelines import WIDTH, unet
from unified_reward.policies import Denoising


def kolors():
    torch.manual_seed(0)
    tokenizer = ChatGLMTokenizer(str(Path(_vocabulary().name, "tokenizer.model")))
    config = ChatGLMConfig(
        padded_vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        ffn_hidden_size=WIDTH,
        num_layers=2,
        num_attention_heads=2,
        kv_channels=8,
        multi_query_attention=True,
        multi_query_group_num=1,
        seq_length=256,
        original_rope=True,
    )
    return KolorsPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(config),
        unet=unet(
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        vae=autoencoder(2, scaling_factor=0.13025),
        scheduler=EulerDiscreteScheduler(
            beta_end=0.014,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            num_train_timesteps=1100,
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=False,
    )


def _text_encoder(config):
    """Build an encoder and set its norms, which it leaves uninitialised."""
    encoder = widen(ChatGLMModel(config))
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    return encoder


@cache
def _vocabulary():
    """Train a vocabulary; its folder stays, since the tokenizer copies the file when saved."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="char",
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "tokenizer.model").write_bytes(model.getvalue())
    return folder


PIPELINES = {
    "KolorsPipeline": Tiny(kolors, Denoising(steps=3, guidance=5.0, height=16, width=24)),
}
