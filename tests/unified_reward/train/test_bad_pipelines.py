"""Pipelines and pairs that cannot be aligned are refused, with the reason, before any training."""

import json
import shutil

import diffusers
import pytest

from tests.unified_reward.policies import pipelines
from tests.unified_reward.train import aligned
from tests.unified_reward.train.aligned import align, config
from tests.unified_reward.train.observed import tiny_denoiser
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.train.dpo_diffusion import DPOModel, align_pipeline
from unified_reward.train.latents import Resolution


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return aligned.source("pictures", tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def source(pictures, tmp_path, monkeypatch):
    """A policy with pairs, of which none may be learned."""
    monkeypatch.setattr(DPOModel, "__init__", lambda *_: pytest.fail("it is trained"))
    return shutil.copytree(pictures, tmp_path / "source")


def test_an_image_to_image_pipeline_is_refused(source, tmp_path):
    shutil.rmtree(source / "policy")
    pipelines.from_pictures(source / "policy")
    text = "neither text-to-image nor text-to-video, and no editor of images: it redraws an image"
    with pytest.raises(ModelError, match=text):
        align(source, tmp_path / "new", config())


@pytest.mark.parametrize(
    ("scheduler", "text"),
    [
        (diffusers.EDMEulerScheduler(), "a EDMEulerScheduler cannot be aligned"),
        (diffusers.SCMScheduler(), "trigflow cannot be aligned"),
    ],
)
def test_a_scheduler_without_a_schedule_of_training_is_refused(scheduler, text, source, tmp_path):
    index = json.loads((source / "policy" / "model_index.json").read_text("utf-8"))
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (source / "policy" / "model_index.json").write_text(json.dumps(index), "utf-8")
    scheduler.save_pretrained(source / "policy" / "scheduler")
    with pytest.raises(ModelError, match=text):
        align(source, tmp_path / "new", config())


@pytest.mark.parametrize("extra", [1, 2])
def test_a_network_that_is_called_more_often_in_some_steps_is_refused(extra, monkeypatch):
    """The second step has more calls than the first, whose outputs are left unused."""
    tiny = tiny_denoiser("StableDiffusionPipeline")
    pipeline, text = tiny.pipeline, tiny.condition("a star")["encoder_hidden_states"][0]
    tiny.denoiser._calls.clear()
    scale, steps = pipeline.scheduler.scale_model_input, []

    def scaled(sample, timestep):
        steps.append(timestep)
        if len(steps) % 3 == 2:
            for _ in range(extra):
                pipeline.unet(sample[:1], timestep, encoder_hidden_states=text)
        return scale(sample, timestep)

    monkeypatch.setattr(pipeline.scheduler, "scale_model_input", scaled)
    with pytest.raises(ModelError, match="a StableDiffusionPipeline calls its network 1 or "):
        tiny.condition("a star")


def test_a_pipeline_that_does_not_call_its_network_in_a_step_is_refused(monkeypatch):
    tiny = tiny_denoiser("FluxPipeline")
    transformer, outputs = tiny.pipeline.transformer, []
    forward = transformer.forward

    def cached(**named):
        outputs.append(outputs[0] if len(outputs) == 1 else forward(**named))
        return outputs[-1]

    monkeypatch.setattr(transformer, "forward", cached)
    with pytest.raises(ModelError, match="predicts something else"):
        tiny.condition("a star")


@pytest.mark.parametrize(
    "resolution", [Resolution(height=15), Resolution(width=7), Resolution(height=-2)]
)
def test_sizes_that_the_autoencoder_does_not_take_are_refused(resolution, source, tmp_path):
    with pytest.raises(ConfigError, match="multiples of 2 above 0 for this pipeline"):
        align(source, tmp_path / "new", config(resolution=resolution))


def with_prompts(source, prompts):
    rows = [json.loads(line) for line in (source / "pairs.jsonl").read_text("utf-8").splitlines()]
    rows = [row | {"prompt": prompt} for row, prompt in zip(rows, prompts, strict=False)]
    aligned.write(rows, source / "pairs.jsonl")


def test_prompts_over_the_length_of_the_encoder_are_told_by_pair(source, tmp_path):
    """The encoder reads 32 tokens, of which two are the ends of the prompt."""
    with_prompts(source, ["a" * 31, "a" * 40])
    log = []
    policy, pairs = source / "policy", source / "pairs.jsonl"
    with pytest.raises(DataError, match="no pair is left to learn from"):
        align_pipeline(policy, pairs, config(), tmp_path / "new", log.append)
    assert log == [
        "pair 'p0': its prompt has 33 tokens, and the text encoder reads 32",
        "pair 'p1': its prompt has 42 tokens, and the text encoder reads 32",
    ]


def test_pairs_with_shorter_prompts_are_learned(pictures, tmp_path):
    source = shutil.copytree(pictures, tmp_path / "source")
    with_prompts(source, ["a" * 31, "a" * 30, "a star"])
    report, log = align(source, tmp_path / "new", config(1))
    assert report["pairs"] == 2
    assert log == ["pair 'p0': its prompt has 33 tokens, and the text encoder reads 32"]


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_safetensors_are_refused(part, source, tmp_path):
    folder = source / "policy" / part
    (weights,) = folder.glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="policy cannot be loaded as a diffusers pipeline"):
        align(source, tmp_path / "new", config())
    assert not (tmp_path / "new").exists()
