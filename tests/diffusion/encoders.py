"""Text encoders that several families share, and weights large enough to be seen."""

import torch
from transformers import Gemma2Config, Gemma2Model, T5Config, T5EncoderModel

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


def t5():
    config = T5Config(
        vocab_size=len(tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=1,
    )
    return T5EncoderModel(config).eval()


def gemma2():
    config = Gemma2Config(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=4096,
        sliding_window=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return Gemma2Model(config).eval()
