"""Attention of local judges: what is refused, and verdicts under the rules of Flash Attention."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from unified_reward.backends import attention
from unified_reward.backends.hf_vlm import VLM, load_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request


RULES = "flash_attention_rules"


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """Here every model that is loaded is proven."""


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


REQUESTS = [
    Request((picture(0), "rate: a red circle"), ("1", "10", "first tie")),
    Request((picture(1), "a longer text about a red circle, first or second"), ("second", "tie")),
    Request(("no picture",), ("10 first", "1 first")),
]


def logprobs(vlm):
    return [answer.choice_logprobs for answer in vlm.generate(REQUESTS)]


def flash_rules(module, query, key, value, attention_mask, scaling=None, **_):
    """Attention of each row without its padding, as Flash Attention has it."""
    assert attention_mask is None or attention_mask.ndim == 2
    n, _, width, _ = query.shape
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
    out = torch.zeros_like(query)
    for i in range(n):
        keys = slice(None) if attention_mask is None else attention_mask[i].bool()
        queries = slice(None) if attention_mask is None else attention_mask[i].bool()[-width:]
        rows = query[i][:, queries]
        causal = None
        if getattr(module, "is_causal", False):
            n_keys = key[i][:, keys].shape[1]
            causal = torch.ones(rows.shape[1], n_keys).tril(n_keys - rows.shape[1]).bool()
        out[i][:, queries] = scaled_dot_product_attention(
            rows, key[i][:, keys], value[i][:, keys], causal, scale=scaling
        )
    return out.transpose(1, 2).contiguous(), None


@pytest.mark.numeric
def test_under_the_rules_of_flash_attention_choices_are_asked_in_rows(checkpoints):
    AttentionInterface.register(RULES, flash_rules)
    AttentionMaskInterface.register(RULES, flash_attention_mask)
    plain = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    assert plain.describe()["attention"] == "sdpa"
    assert plain.ways.choices == "packed"
    wanted = logprobs(plain)
    plain.model.config._attn_implementation = RULES
    plain.model.config.vision_config._attn_implementation = "sdpa"
    flash = VLM(plain.model, plain.chat, name="flash", batch_size=16)
    described = flash.describe()
    assert described["attention"] == RULES
    assert (flash.ways.choices, flash.ways.batches) == ("rows", "padded")
    assert "takes no mask with a row for each token" in described["slower"][0]
    for found, row in zip(logprobs(flash), wanted, strict=True):
        assert found == pytest.approx(row, abs=1e-4)


@pytest.mark.numeric
def test_attention_is_chosen_by_name_and_gives_the_same_verdicts(checkpoints):
    folder = checkpoints["qwen3_vl"]
    eager = load_vlm(folder, device="cpu", attention="eager")
    assert eager.describe()["attention"] == "eager"
    for found, row in zip(
        logprobs(eager), logprobs(load_vlm(folder, device="cpu", attention="sdpa")), strict=True
    ):
        assert found == pytest.approx(row, abs=1e-4)


def test_flash_attention_is_refused_where_it_cannot_run(checkpoints, monkeypatch):
    folder = checkpoints["qwen3_vl"]
    monkeypatch.setattr(attention, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package flash_attn, which is not installed"):
        load_vlm(folder, device="cpu", attention="flash_attention_2")
    monkeypatch.setattr(attention, "find_spec", lambda _: True)
    with pytest.raises(ConfigError, match="CUDA device, not in bfloat16 on cpu"):
        load_vlm(folder, device="cpu", dtype="bfloat16", attention="flash_attention_3")
    with pytest.raises(ConfigError, match="not in float32 on cuda"):
        attention.check_attention("flash_attention_2", "cuda:0", torch.float32)
