"""Mistakes in the code are seen by the checks of test_pipelines.py, or refused with a reason."""

import pytest

from tests.unified_reward.train.observed import (
    PROMPTS,
    decoded_latents,
    difference,
    replay,
    tiny_denoiser,
)
from unified_reward.core.errors import ModelError
from unified_reward.policies import prompt_calls
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.layouts import Layout
from unified_reward.train.denoisers import Denoiser


pytestmark = pytest.mark.numeric

GUIDED = ("StableDiffusionPipeline", "ZImagePipeline", "WanPipeline 2.2")
SEEN = 1e-3


@pytest.mark.parametrize("name", [*GUIDED, "FluxPipeline"])
def test_the_condition_of_another_prompt_is_seen(name, monkeypatch):
    tiny, inputs = tiny_denoiser(name), DiffusionPolicy.inputs
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPolicy, "inputs", lambda self, _, *rest: inputs(self, "x", *rest))
        condition = tiny.condition(PROMPTS[0])
    assert replay(tiny, condition).conditional > SEEN


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_towards_the_wrong_output_is_refused(name, monkeypatch):
    """The condition would be that of the empty prompt, which guidance leads away from."""
    tiny, explain = tiny_denoiser(name), prompt_calls.explain

    def turned(*given):
        mixture = explain(*given)
        return mixture._replace(weights=mixture.weights[::-1])

    monkeypatch.setattr(prompt_calls, "explain", turned)
    with pytest.raises(ModelError, match="predicts the same with and without the prompt"):
        replay(tiny)


@pytest.mark.parametrize("name", ["ZImagePipeline", "FluxPipeline"])
def test_a_forgotten_sign_of_the_prediction_is_seen(name, monkeypatch):
    """An output and its opposite are of one direction, and the scheduler gets the first."""
    expected, explain = replay(tiny_denoiser(name)), prompt_calls.explain

    def turned(*given):
        mixture = explain(*given)
        return mixture._replace(sign=-mixture.sign)

    monkeypatch.setattr(prompt_calls, "explain", turned)
    assert replay(tiny_denoiser(name)).guidance < 0 < expected.guidance


@pytest.mark.parametrize("name", ["FluxPipeline", "ZImagePipeline"])
def test_a_timestep_that_is_scaled_twice_is_seen(name, monkeypatch):
    tiny, scaled = tiny_denoiser(name), Layout.network_timestep
    condition = tiny.condition(PROMPTS[0])
    monkeypatch.setattr(Layout, "network_timestep", lambda self, t: scaled(self, t) / 1000)
    assert replay(tiny, condition).conditional > SEEN
    monkeypatch.setattr(Layout, "network_timestep", lambda self, t: scaled(self, t) / 7)
    with pytest.raises(ModelError, match="timesteps of an unknown scale"):
        tiny_denoiser(name).condition(PROMPTS[0])


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "CogVideoXPipeline"])
def test_a_transposed_packing_is_seen(name, monkeypatch):
    tiny = tiny_denoiser(name)
    tiny.condition(PROMPTS[0])
    decoded, encoded = decoded_latents(tiny, monkeypatch)
    assert difference(decoded, encoded) <= 1e-6
    maps = tiny.denoiser._maps
    found = maps[tiny.size]
    inner = found.shape[-1]
    order = found.order.view(-1, inner).T.flatten()
    maps[tiny.size] = found._replace(order=order)
    decoded, encoded = decoded_latents(tiny, monkeypatch)
    assert difference(decoded, encoded) > SEEN


def test_a_second_transformer_that_is_left_out_is_seen(monkeypatch):
    tiny = tiny_denoiser("WanPipeline 2.2")
    networks = [call.network for step in tiny.observe().steps for call in step.calls]
    assert {*networks} == {"transformer", "transformer_2"}
    monkeypatch.setattr(Denoiser, "_by_network", lambda _, t: {"transformer": [*range(len(t))]})
    with pytest.raises(
        ModelError, match=r"calls its transformer_2 at timestep .*, not transformer"
    ):
        tiny.condition(PROMPTS[0])
