"""Every family of pipelines: its denoiser predicts, encodes and learns as the pipeline samples."""

import pytest
import torch

from tests.unified_reward.train.observed import (
    ALIGNED,
    PROMPTS,
    decoded_latents,
    difference,
    network_latents,
    open_aligned,
    replay,
)


pytestmark = pytest.mark.numeric

NORMED = ("QwenImagePipeline", "Lumina2Pipeline")
"""Guidance restores the norm of the prediction."""


@pytest.fixture(scope="module", params=ALIGNED)
def tiny(request):
    return open_aligned(request.param)


def test_predictions_are_the_outputs_of_the_network_in_a_run(tiny):
    """To rounding where the network gets the batch of the run, without a row for guidance."""
    name = tiny.policy.name
    found = replay(tiny, is_normed=name in NORMED)
    steps = tiny.observe().steps
    is_alone = all(len(call.output) == 1 for step in steps for call in step.calls)
    assert found.conditional <= (1e-6 if is_alone else 1e-5)
    assert found.mixed <= 1e-5
    outputs = sum(len(call.output) for call in steps[0].calls)
    if outputs > 1 and name not in NORMED:
        assert found.guidance > 1, "guidance leads to the prompt"


@torch.no_grad()
def test_predictions_depend_on_the_prompt_and_not_on_the_rest_of_the_batch(tiny):
    step = tiny.observe().steps[-1]
    noisy, timestep = torch.cat([network_latents(step)] * 2), step.timestep.repeat(2)
    first, second = tiny.denoiser.predict(noisy, timestep, tiny.condition(*PROMPTS))
    assert difference(first, second) > 1e-3
    for prompt, found in zip(PROMPTS, (first, second), strict=True):
        alone = tiny.denoiser.predict(noisy[:1], timestep[:1], tiny.condition(prompt))
        assert difference(alone[0], found) <= 1e-5


def test_latents_of_an_image_reach_the_decoder_as_they_were_encoded(tiny, monkeypatch):
    tiny.condition(PROMPTS[0])
    decoded, encoded = decoded_latents(tiny, monkeypatch)
    assert decoded.shape == encoded.shape
    assert difference(decoded, encoded) <= 1e-6
