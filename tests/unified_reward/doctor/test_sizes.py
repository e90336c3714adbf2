"""Bytes of models, derived by hand."""

import json
from importlib import resources

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from unified_reward.doctor.sizes import GIB, JUDGES, SYSTEMS, Language, Size, needed_bytes, size_of
from unified_reward.scorers import SYSTEMS as PUBLISHED
from unified_reward.train.launch import LaunchConfig


SMALL = Size("small", 1000, Language(layers=2, kv_heads=3, head_dim=5, width=7, vocabulary=11))
"""A thousand parameters, 2 x 11 x 7 = 154 of them in embedding and output layer."""


@pytest.mark.parametrize(
    ("dtype", "weights", "width"),
    [
        ("float32", 4000, 4),
        ("bfloat16", 2000, 2),
        ("8bit", 846 + 308, 2),
        ("4bit", round(846 * 0.5625 + 308), 2),
    ],
)
def test_inference_is_weights_cache_and_a_pass(dtype, weights, width):
    # A token has 2 x 2 layers x 3 heads x 5 keys and values, and 24 x 7 activations.
    a_token = (60 + 168) * width
    needed = needed_bytes(SMALL, "inference", dtype)
    assert abs(needed - (weights + 16_384 * a_token + GIB)) < 1


def test_training_is_weights_with_adamw_and_a_pass():
    # 2 layers kept and 24 of one, of 7 numbers of 2 bytes; logits and gradients of 11 tokens.
    training_pass = 4_096 * (26 * 7 * 2 + 11 * 8)
    assert needed_bytes(SMALL, "full") == 16_000 + training_pass + GIB
    assert needed_bytes(SMALL, "lora") == 2_000 + 10 * 16 + training_pass + GIB


def test_training_counts_as_a_dry_run_does():
    dry = LaunchConfig("").memory_gib(0, 10**9, 8 * 10**9)["total"]
    plain = Language(0, 0, 0, 0, 0)
    assert needed_bytes(Size("", 10**9, plain), "full") == pytest.approx((dry + 1) * GIB, rel=1e-3)


def test_an_encoder_has_no_cache_and_is_not_trained_here():
    assert needed_bytes(SYSTEMS["pickscore"], "inference", "float32") == 986_109_441 * 4 + GIB
    assert needed_bytes(SYSTEMS["pickscore"], "full") is None


def test_parameters_that_nobody_published_are_unknown():
    assert needed_bytes(size_of("ixc-2.5-reward"), "inference") is None
    assert needed_bytes(size_of("scorer-of-somebody"), "inference") is None
    assert SYSTEMS.keys() <= PUBLISHED.keys()


@pytest.mark.parametrize("size", [size for size in JUDGES if size.name in ("7B", "8B")])
def test_the_sizes_of_a_judge_are_those_of_its_base(size):
    file = resources.files("unified_reward") / "recipes" / "architectures" / f"{size.like}.json"
    config = AutoConfig.for_model(**json.loads(file.read_bytes())["config"])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert size.language == Language(
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        tied=config.tie_word_embeddings,
    )
