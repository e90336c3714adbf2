"""Rows of choices are asked in passes of bounded memory."""

import pytest
import torch

from tests.tolerance import near
from unified_reward.backends import choices
from unified_reward.core.requests import Request


_HEADS = [
    (Request(("a red circle " * n,), ("1", "10 first", "second tie 10", "tie second")), "")
    for n in (3, 9)
]


@pytest.mark.parametrize("name", ["qwen3_5", "gemma3"])
@pytest.mark.parametrize("cached", [1, 300])
def test_rows_of_several_passes_are_those_of_one(judges, monkeypatch, name, cached):
    vlm = judges[name, "float32"].model
    with torch.inference_mode():
        wanted = choices.score_choices(vlm, _HEADS, "rows")
        monkeypatch.setattr(choices, "_CACHED_TOKENS", cached)
        assert choices.score_choices(vlm, _HEADS, "rows") == [near(row) for row in wanted]
