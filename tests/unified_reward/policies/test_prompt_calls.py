"""The call for the prompt is found in a run; a run that cannot be understood is refused."""

from functools import wraps

import pytest
import torch

from tests.diffusion import PIPELINES
from unified_reward.core.errors import ModelError
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import observe
from unified_reward.policies.prompt_calls import find_prompt_call


class Run:
    """Runs of a tiny pipeline."""

    def __init__(self, name):
        tiny = PIPELINES[name]
        self.pipeline = tiny.build()
        self.pipeline.set_progress_bar_config(disable=True)
        self.policy = DiffusionPolicy(self.pipeline, tiny.sampling, name=name, batch_size=2)

    def __call__(self, n, prompt="a red star"):
        generators = [torch.Generator().manual_seed(i) for i in range(n)]
        inputs = self.policy.inputs(prompt, n) | {"num_inference_steps": 3}
        return self.pipeline(**inputs, generator=generators, output_type="np")

    @torch.no_grad()
    def find(self):
        return find_prompt_call(self.pipeline, self, self.policy.guidance_scales)


@pytest.mark.parametrize(
    ("name", "number", "index", "pieces"),
    [
        ("StableDiffusionPipeline", 0, 1, 2),
        ("FluxPipeline", 0, 0, 1),
        ("WanPipeline", 0, 0, 1),
        ("QwenImagePipeline", 0, 0, 1),
        ("ZImagePipeline", 0, 0, 2),
    ],
)
def test_the_call_of_the_prompt_is_found(name, number, index, pieces):
    """Guidance has a second row, before or behind, or a call of its own behind."""
    found = Run(name).find()
    assert (found.number, found.index, found.pieces) == (number, index, pieces)


def test_another_prompt_is_encoded_without_its_network():
    run = Run("FluxPipeline")
    found, calls = run.find(), []
    embedder = run.pipeline.transformer.x_embedder
    embedder.register_forward_hook(lambda *given: calls.append(given))
    with torch.no_grad():
        rows = [
            found.encode(run.pipeline, lambda n, p=p: run(n, p)) for p in ("a star", "two cats")
        ]
    assert not calls
    texts = [row["encoder_hidden_states"] for row in rows]
    assert texts[0].shape == texts[1].shape
    assert not torch.allclose(*texts)


def test_a_run_without_a_step_is_refused():
    run = Run("StableDiffusionPipeline")
    with pytest.raises(ModelError, match="does not call the step of its scheduler"):
        find_prompt_call(run.pipeline, lambda _: None)


def test_guidance_that_is_rescaled_is_refused():
    run = Run("StableDiffusionPipeline")
    run.policy.arguments["guidance_rescale"] = 0.7
    with pytest.raises(ModelError, match="the scheduler gets"):
        run.find()


def test_a_network_that_predicts_by_its_batch_is_refused(monkeypatch):
    """The row of guidance changes the prediction for the prompt."""
    run = Run("StableDiffusionPipeline")
    forward = run.pipeline.unet.forward

    @wraps(forward)
    def mixed(*given, **named):
        (output,) = forward(*given, **named)
        return (output + 0.1 * output.mean(0, keepdim=True),)

    monkeypatch.setattr(run.pipeline.unet, "forward", mixed)
    with pytest.raises(ModelError, match="something else for a prompt alone than within a batch"):
        run.find()


def test_observation_leaves_the_pipeline_as_it_was():
    run = Run("FluxPipeline")
    parts = (run.pipeline.transformer, run.pipeline.scheduler, run.pipeline.vae)
    before = [set(vars(part)) & {"forward", "step", "decode"} for part in parts]
    with torch.no_grad():
        plain = run(1).images
        seen = observe(run.pipeline, lambda: run(1))
        again = run(1).images
    assert len(seen.steps) == 3
    assert (plain == again).all()
    assert [set(vars(part)) & {"forward", "step", "decode"} for part in parts] == before
