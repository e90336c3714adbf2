"""Denoisers have the inputs and outputs of the pipelines they are taken from."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from tests.unified_reward.policies import pipelines
from unified_reward.core.errors import ModelError
from unified_reward.policies.diffusion import load_pipeline
from unified_reward.train.denoisers import build_denoiser, read_schedule


pytestmark = pytest.mark.numeric


KINDS = {
    "pictures": {"height": 16, "width": 24},
    "sdxl": {"height": 16, "width": 24},
    "sd3": {"height": 16, "width": 24, "max_sequence_length": 20},
    "wan": {"height": 16, "width": 32, "num_frames": 5, "max_sequence_length": 20},
}
"""Calls of the tiny pipelines."""
PROMPTS = ["a red star", "two blue cats"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return {
        name: load_pipeline(
            getattr(pipelines, name)(tmp_path_factory.mktemp(name)), device="cpu", dtype="float32"
        )
        for name in KINDS
    }


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def sampled(pipeline, kind, **changes):
    """Samples of a pipeline, unguided, for two prompts and two seeds in two steps."""
    return pipeline(
        prompt=PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        num_inference_steps=2,
        guidance_scale=1.0,
        **KINDS[kind] | changes,
    )


def watched(module):
    """Calls of a network: its inputs by name, and its output."""
    calls = []
    names = ("sample",) if hasattr(module, "time_embedding") else ("hidden_states",)
    names += ("timestep", "encoder_hidden_states")

    def see(_, given, named, text):
        calls.append(({**dict(zip(names, given, strict=False)), **named}, text[0]))

    return calls, module.register_forward_hook(see, with_kwargs=True)


def test_a_denoiser_says_what_the_network_of_the_pipeline_says_while_it_draws(loaded, kind):
    pipeline = loaded[kind]
    denoiser = build_denoiser(pipeline, KINDS[kind].get("max_sequence_length"))
    calls, hook = watched(denoiser.network)
    sampled(pipeline, kind)
    hook.remove()
    assert len(calls) == 2
    with torch.no_grad():
        condition = denoiser.encode_prompts(PROMPTS)
        for given, text in calls:
            noisy = given.get("sample", given.get("hidden_states"))
            timestep = given["timestep"].expand(2)
            result = denoiser.predict(noisy, timestep, condition)
            assert torch.allclose(result, text, rtol=0, atol=1e-5)
            other = denoiser.predict(noisy, timestep, {k: v.flip(0) for k, v in condition.items()})
            assert (other - text).abs().max() > 1e-4, "the prompt is seen"


def test_conditions_of_prompts_do_not_depend_on_who_else_is_encoded(loaded, kind):
    denoiser = build_denoiser(loaded[kind], KINDS[kind].get("max_sequence_length"))
    together = denoiser.encode_prompts(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        for name, item in denoiser.encode_prompts([prompt]).items():
            assert torch.allclose(item[0], together[name][i], atol=1e-6)


def test_sdxl_is_told_the_size_and_the_pooled_prompt(loaded):
    denoiser = build_denoiser(loaded["sdxl"])
    calls, hook = watched(denoiser.network)
    sampled(loaded["sdxl"], "sdxl")
    (given, _), _ = calls
    calls.clear()
    denoiser.predict(given["sample"], given["timestep"], denoiser.encode_prompts(PROMPTS))
    hook.remove()
    added = calls[0][0]["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    assert torch.equal(added["time_ids"], given["added_cond_kwargs"]["time_ids"])
    assert torch.allclose(added["text_embeds"], given["added_cond_kwargs"]["text_embeds"])


def test_latents_are_what_decoding_undoes(loaded, kind):
    """The pipeline decodes ``D(z)`` of a latent ``z``; were ``D(z)`` encoded, it would be ``z``."""
    pipeline = loaded[kind]
    latents = sampled(pipeline, kind, output_type="latent")[0]
    decode, seen = pipeline.vae.decode, []
    pipeline.vae.decode = lambda latent, **named: seen.append(latent) or decode(latent, **named)
    sampled(pipeline, kind)
    del pipeline.vae.decode
    result = SimpleNamespace(mode=lambda: seen[0])
    pipeline.vae.encode = lambda _: SimpleNamespace(latent_dist=result)
    found = build_denoiser(pipeline).encode_pixels(torch.zeros(1))
    del pipeline.vae.encode
    assert not torch.allclose(seen[0], latents, atol=1e-2), "decoding scales"
    assert torch.allclose(found, latents, atol=1e-5)


def test_latents_are_of_the_size_the_pipeline_draws_at(loaded, kind):
    pipeline = loaded[kind]
    denoiser = build_denoiser(pipeline)
    frames, width = ((5,), 32) if kind == "wan" else ((), 24)
    pixels = torch.rand(2, 3, *frames, 16, width) * 2 - 1
    with torch.no_grad():
        found = denoiser.encode_pixels(pixels)
        assert torch.equal(found, denoiser.encode_pixels(pixels)), "means are not drawn"
    assert found.shape == sampled(pipeline, kind, output_type="latent")[0].shape


@pytest.mark.parametrize(
    ("kind", "scale", "block", "rest"),
    [("pictures", 2, 2, None), ("sdxl", 2, 2, None), ("sd3", 2, 4, None), ("wan", 8, 16, 4)],
)
def test_sides_and_frames_that_fit(loaded, kind, scale, block, rest):
    denoiser = build_denoiser(loaded[kind])
    assert (denoiser.vae_scale_factor, denoiser.size_multiple, denoiser.temporal_stride) == (
        scale,
        block,
        rest,
    )


def test_a_frozen_pipeline_has_nothing_to_train(loaded):
    denoiser = build_denoiser(loaded["pictures"])
    denoiser.freeze()
    parts = (denoiser.network, denoiser.pipeline.vae, denoiser.pipeline.text_encoder)
    assert not any(item.requires_grad for part in parts for item in part.parameters())
    assert not any(part.training for part in parts)
    denoiser.network.requires_grad_(requires_grad=True)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "kind",
    [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler],
)
def test_the_noise_is_that_of_the_scheduler(kind, prediction):
    scheduler = kind(beta_schedule="scaled_linear", prediction_type=prediction)
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == prediction
    scheduler.set_timesteps(1000)
    clean, noise = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    for place in (0, 1, 400, 998, 999):
        result = scheduler.timesteps[scheduler.timesteps == schedule.timestep[place]]
        noisy = scheduler.add_noise(clean, noise, result)
        scheduler._step_index = None
        seen = scheduler.scale_model_input(noisy, result[0])
        ours = schedule.alpha[place] * clean + schedule.sigma[place] * noise
        assert torch.allclose(ours.float(), seen, atol=2e-6)


def test_noise_without_signal_at_the_end_is_kept():
    schedule = read_schedule(DDIMScheduler(rescale_betas_zero_snr=True))
    assert (schedule.alpha[-1], schedule.sigma[-1]) == (0, 1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_path_of_a_flow_is_that_of_the_scheduler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == "flow"
    assert torch.allclose(schedule.sigma.float().flip(0), scheduler.sigmas, atol=1e-6)
    assert torch.allclose(schedule.timestep.flip(0), scheduler.timesteps, atol=1e-3)
    assert torch.equal(schedule.alpha, 1 - schedule.sigma)
    clean, noise = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    seen = scheduler.scale_noise(clean, scheduler.timesteps[300:301], noise)
    ours = schedule.alpha[-301] * clean + schedule.sigma[-301] * noise
    assert torch.allclose(ours.float(), seen, atol=1e-6)


def test_half_the_steps_of_a_flow_shifted_by_three_have_three_quarters_of_noise():
    """3 / 2 / (1 + 2 / 2) = 3 / 4, passed to the network as 750."""
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert float(schedule.sigma[499]) == pytest.approx(0.75)
    assert float(schedule.timestep[499]) == pytest.approx(750)


def test_a_shift_that_depends_on_the_size_is_left_out():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert torch.allclose(read_schedule(scheduler).sigma.float().flip(0), scheduler.sigmas)


def test_the_flow_of_another_solver_is_the_same_path():
    """UniPC uses other points of it, and passes whole timesteps, cut off, to the network."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    schedule = read_schedule(scheduler)
    assert schedule.prediction_type == "flow"
    scheduler.set_timesteps(8)
    for result, sigma in zip(scheduler.timesteps[1:], scheduler.sigmas[1:-1], strict=True):
        place = (schedule.sigma - sigma).abs().argmin()
        assert float(schedule.sigma[place]) == pytest.approx(float(sigma), abs=0.0015)
        assert float(schedule.timestep[place]) == pytest.approx(float(result), abs=2.5)


def test_the_four_timesteps_of_sdxl_turbo_are_picked():
    schedule = read_schedule(EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))
    places = schedule.nearest_steps((999, 249.0, 749, 499, 999))
    assert places.tolist() == [249, 499, 749, 999]
    assert schedule.timestep[places].tolist() == [249, 499, 749, 999]


def test_timesteps_of_a_flow_are_the_nearest_there_are():
    """Shifted by 3, step 333 of 1000 has sigma 3 * 0.333 / 1.666 = 0.59964, step 334 0.60072."""
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert schedule.nearest_steps((600,)).tolist() == [332]
    assert schedule.nearest_steps((600.5,)).tolist() == [333]


@pytest.mark.parametrize(("kind", "most"), [("pictures", 32), ("sdxl", 32), ("sd3", 32)])
def test_prompts_are_read_up_to_the_limit_of_their_encoder(loaded, kind, most):
    """A letter is a token, and two more are its ends."""
    denoiser = build_denoiser(loaded[kind], 8 if kind == "sd3" else None)
    assert denoiser.prompt_overflow("a" * (most - 2)) is None
    assert denoiser.prompt_overflow("a" * (most - 1)) == (most + 1, most)


def test_prompts_of_wan_are_read_as_far_as_it_is_sampled_with(loaded):
    assert build_denoiser(loaded["wan"]).prompt_overflow("a" * 510) is None
    assert build_denoiser(loaded["wan"]).prompt_overflow("a" * 511) == (513, 512)
    assert build_denoiser(loaded["wan"], 20).prompt_overflow("a" * 19) == (21, 20)
    assert (
        build_denoiser(loaded["wan"], 20).encode_prompts(["a"])["encoder_hidden_states"].shape[1]
        == 20
    )


@pytest.mark.parametrize(("tokens", "letters"), [(None, 25), (40, 4)])
def test_the_third_encoder_of_stable_diffusion_3_has_its_own_limit(
    loaded, tokens, letters, monkeypatch
):
    """Ten tokens a letter, of which the pipeline reads 256 by default."""

    def tokenizer(prompt):
        return SimpleNamespace(input_ids=[0] * 10 * len(prompt))

    tokenizer.model_max_length = 512
    monkeypatch.setattr(loaded["sd3"], "tokenizer_3", tokenizer)
    denoiser = build_denoiser(loaded["sd3"], tokens)
    assert denoiser.prompt_overflow("a" * letters) is None
    assert denoiser.prompt_overflow("a" * (letters + 1)) == (10 * letters + 10, tokens or 256)


@pytest.mark.parametrize("kind", ["FluxPipeline", "LTXPipeline", "StableDiffusionImg2ImgPipeline"])
def test_other_pipelines_are_refused(kind):
    bare = object.__new__(getattr(diffusers, kind))
    result = f"a {kind} cannot be aligned; supported: StableDiffusionPipeline, .*, WanPipeline"
    with pytest.raises(ModelError, match=result):
        build_denoiser(bare)


def test_what_predicts_pictures_themselves_is_refused():
    with pytest.raises(ModelError, match="sample cannot be aligned; epsilon, v_prediction and"):
        read_schedule(DDIMScheduler(prediction_type="sample"))


def test_noise_of_an_unknown_form_is_refused():
    with pytest.raises(ModelError, match="a EDMEulerScheduler cannot be aligned; DDPM, DDIM"):
        read_schedule(EDMEulerScheduler())


def test_a_wan_of_two_transformers_is_refused(loaded):
    parts = loaded["wan"].components
    both = diffusers.WanPipeline(**parts | {"transformer_2": parts["transformer"]})
    late = diffusers.WanPipeline(**parts | {"transformer": None})
    late.transformer_2 = parts["transformer"]
    tokens = diffusers.WanPipeline(**parts, expand_timesteps=True)
    for item in (both, late, tokens):
        with pytest.raises(ModelError, match="a Wan with two transformers or a timestep per token"):
            build_denoiser(item)


def test_a_network_that_is_told_its_guidance_is_refused(tmp_path):
    pipeline = load_pipeline(pipelines.pictures(tmp_path), device="cpu")
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ModelError, match="a guidance-distilled network"):
        build_denoiser(pipeline)
