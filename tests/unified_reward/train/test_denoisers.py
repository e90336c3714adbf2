"""Denoisers take sizes, prompts and parts of their pipelines; what they cannot take is refused.

That they predict as their pipelines do is in test_pipelines.py.
"""

import diffusers
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from tests.diffusion import PIPELINES
from tests.unified_reward.policies import pipelines
from tests.unified_reward.train.observed import build
from unified_reward.core.errors import DataError, ModelError
from unified_reward.policies import Denoising, Size
from unified_reward.train.denoisers import Denoiser


BUILDERS = {
    "pictures": (pipelines.stable_diffusion, Denoising(guidance=3.0, height=16, width=24)),
    "sdxl": (pipelines.stable_diffusion_xl, Denoising(guidance=3.0, height=16, width=24)),
    "sd3": (pipelines.stable_diffusion_3, Denoising(height=16, width=24, prompt_tokens=20)),
    "wan": (pipelines.wan_2_1, Denoising(height=16, width=32, frames=5, prompt_tokens=20)),
}


def built(kind, **changes):
    builder, sampling = BUILDERS[kind]
    return build(kind, builder(), Denoising(**vars(sampling) | changes))


@pytest.fixture(scope="module")
def tiny():
    return {kind: built(kind) for kind in BUILDERS}


def test_sdxl_gets_the_size_that_is_trained(tiny):
    denoiser = tiny["sdxl"].denoiser
    for size in (Size(16, 24), Size(8, 16)):
        condition = denoiser.encode_prompt("a star", size)
        expected = [*size[:2], 0, 0, *size[:2]]
        assert condition["added_cond_kwargs.time_ids"].flatten().tolist() == expected


@pytest.mark.parametrize("first", ["", "two cats"])
def test_conditions_do_not_depend_on_the_first_prompt(first):
    """With an empty prompt guidance has two equal outputs, and does not show which is its own."""
    (used, size), (fresh, _) = (built("pictures")[:2] for _ in range(2))
    used.encode_prompt(first, size)
    rows = [denoiser.encode_prompt("a star", size) for denoiser in (used, fresh)]
    assert torch.equal(*(row["encoder_hidden_states"] for row in rows))


def test_a_mask_that_only_some_prompts_have_is_kept():
    """NucleusMoE has none where its last block of eight tokens is full."""
    tiny = PIPELINES["NucleusMoEImagePipeline"]
    denoiser, size = build("nucleus", tiny.build(), tiny.sampling)[:2]
    for prompt in ("x", "a red star"):
        row = denoiser.encode_prompt(prompt, size)
        batch = {name: torch.stack([value] * 2) for name, value in row.items()}
        noisy = torch.randn(
            2, *denoiser.encode_pixels(torch.zeros(1, 3, *size[:2]), size).shape[1:]
        )
        assert denoiser.predict(noisy, torch.tensor([900.0, 100.0]), batch).isfinite().all()
    assert "encoder_hidden_states_mask" in row


@pytest.mark.parametrize("kind", BUILDERS)
def test_latents_are_means_of_the_size_that_is_denoised(kind, tiny):
    denoiser, pixels = tiny[kind].denoiser, tiny[kind].pixels(2)
    tiny[kind].condition("a star")
    found = denoiser.encode_pixels(pixels, tiny[kind].size)
    assert torch.equal(found, denoiser.encode_pixels(pixels, tiny[kind].size))
    assert found.shape == (2, *tiny[kind].observe().steps[0].sample.shape[1:])
    alone = denoiser.encode_pixels(pixels[1:], tiny[kind].size)
    assert torch.allclose(found[1], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "block", "stride"),
    [("pictures", 2, None), ("sdxl", 2, None), ("sd3", 4, None), ("wan", 16, 4)],
)
def test_sides_and_frames_that_fit(kind, block, stride, tiny):
    policy = tiny[kind].policy
    assert (policy.size_multiple, policy.temporal_stride) == (block, stride)


def test_a_frozen_pipeline_has_nothing_to_train(tiny):
    denoiser = tiny["pictures"].denoiser
    denoiser.freeze()
    pipeline = denoiser.pipeline
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert not any(weight.requires_grad for part in parts for weight in part.parameters())
    assert not any(part.training for part in parts)


@pytest.mark.parametrize(
    ("kind", "changes", "most"),
    [
        ("pictures", {}, 32),
        ("sdxl", {}, 32),
        ("sd3", {}, 32),
        ("wan", {}, 20),
        ("wan", {"prompt_tokens": None}, 512),
    ],
)
def test_prompts_are_read_up_to_the_limit_of_their_encoder(kind, changes, most, tiny):
    """A letter is a token, and two more are its ends."""
    denoiser, size = (built(kind, **changes) if changes else tiny[kind])[:2]
    shorter = denoiser.encode_prompt("a" * (most - 3), size)
    fitting = denoiser.encode_prompt("a" * (most - 2), size)
    assert any(not torch.equal(fitting[name], shorter[name]) for name in fitting)
    text = f"its prompt has {most + 1} tokens, and the text encoder reads {most}"
    with pytest.raises(DataError, match=text):
        denoiser.encode_prompt("a" * (most - 1), size)


def test_a_prompt_that_the_third_encoder_of_stable_diffusion_3_reads_passes():
    """CLIP reads 32 tokens of it, and T5 up to 40."""
    pipeline = pipelines.stable_diffusion_3()
    t5 = T5Config(
        vocab_size=len(pipelines.tokenizer()),
        d_model=2 * pipelines.WIDTH,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=1,
    )
    parts = {"text_encoder_3": T5EncoderModel(t5), "tokenizer_3": pipelines.tokenizer()}
    pipeline = type(pipeline)(**pipeline.components | parts)
    sampling = Denoising(height=16, width=24, prompt_tokens=40)
    denoiser, size = build("sd3", pipeline, sampling)
    denoiser.encode_prompt("a" * 38, size)
    with pytest.raises(DataError, match="its prompt has 41 tokens, and the text encoder reads 40"):
        denoiser.encode_prompt("a" * 39, size)


def test_a_prompt_whose_embeddings_the_pipeline_cuts_is_refused():
    """Qwen-Image keeps 512 of 1024 tokens."""
    tiny = PIPELINES["QwenImagePipeline"]
    denoiser, size = build("qwen", tiny.build(), tiny.sampling)[:2]
    denoiser.encode_prompt("a" * 400 + " " * 20, size)
    with pytest.raises(DataError, match="its prompt is too long: the last 8 letters make no"):
        denoiser.encode_prompt("a" * 600, size)


def test_a_control_token_in_a_prompt_is_refused(tiny):
    with pytest.raises(ValueError, match=r"spells <\|endoftext\|>, a control token"):
        tiny["pictures"].condition("a <|endoftext|> star")


@pytest.mark.parametrize("size", [Size(15, 24), Size(16, 31)])
def test_sizes_that_the_autoencoder_does_not_take_are_refused(size):
    denoiser = built("pictures").denoiser
    with pytest.raises(ModelError, match=f"cannot be aligned at {size.height} x {size.width}"):
        denoiser.encode_prompt("a star", size)


@pytest.mark.parametrize(
    ("scheduler", "text"),
    [
        (diffusers.EDMEulerScheduler(), "a EDMEulerScheduler cannot be aligned; DDPM, DDIM"),
        (diffusers.SCMScheduler(), "trigflow cannot be aligned"),
    ],
)
def test_schedulers_without_a_schedule_of_training_are_refused(scheduler, text, tiny):
    pipeline = pipelines.stable_diffusion()
    pipeline.scheduler = scheduler
    with pytest.raises(ModelError, match=text):
        build("pictures", pipeline, BUILDERS["pictures"][1])


@pytest.mark.parametrize(
    ("part", "text"),
    [("vae", "it has no autoencoder"), ("transformer", "it has no unet and no transformer")],
)
def test_pipelines_without_a_part_are_refused(part, text):
    policy = built("sd3").policy
    setattr(policy.pipeline, part, None)
    with pytest.raises(ModelError, match=text):
        Denoiser(policy)


def test_two_networks_without_a_boundary_between_their_timesteps_are_refused():
    parts = pipelines.wan_2_1().components
    both = diffusers.WanPipeline(**parts | {"transformer_2": parts["transformer"]})
    with pytest.raises(ModelError, match=r"\(transformer, transformer_2\) and no boundary_ratio"):
        build("wan", both, BUILDERS["wan"][1])


def test_a_network_with_a_distilled_guidance_is_refused():
    pipeline = pipelines.stable_diffusion()
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ModelError, match="a guidance-distilled network"):
        build("pictures", pipeline, BUILDERS["pictures"][1])
