"""Edits of a source image by tiny random pipelines, and what they refuse."""

import logging
import math

import diffusers
import numpy as np
import pytest
import torch

from tests.unified_reward.policies import editors, pipelines
from unified_reward.core.errors import ConfigError, MediaError, ModelError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Denoising, load, seeds
from unified_reward.policies.diffusion import DiffusionPolicy


PROMPT = "make it red"
SIZE = {"height": 16, "width": 24}


def noise(seed, height=20, width=30):
    rng = np.random.default_rng(seed)
    return Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "HWC")


def pixels(made):
    return np.stack([one.source for one in made]).astype(int)


def network(policy):
    return getattr(policy.pipeline, "transformer", None) or policy.pipeline.unet


def inputs_of(policy, source, n=1):
    """Arguments by which a policy calls its pipeline, which is not run."""
    inputs = policy.inputs(PROMPT, n, policy.open_source([source]))
    assert inputs.pop("prompt") == PROMPT
    return inputs


@pytest.fixture(params=editors.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def policies(editing):
    options = {"steps": 2, "guidance": 3.0, **SIZE}
    return {kind: load(editing[kind] / "policy", options, device="cpu") for kind in editors.KINDS}


def test_an_edit_depends_on_seed_instruction_and_source_and_not_on_its_neighbours(policies, kind):
    policy, named = policies[kind], seeds("p", 2, 0)
    source, black = noise(0), Image(np.zeros((20, 30, 3), np.uint8), "HWC")
    edited = pixels(policy.sample(PROMPT, [source], named))
    assert edited.shape == (2, 16, 24, 3)
    assert np.array_equal(edited, pixels(policy.sample(PROMPT, [source], named)))
    alone = pixels([policy.sample(PROMPT, [source], [one])[0] for one in named])
    assert np.abs(edited - alone).max() <= 1, "more than the rounding of another batch"
    for other in (
        pixels(policy.sample(PROMPT, [source], seeds("p", 2, 1))),
        pixels(policy.sample("a blue cat", [source], named)),
        pixels(policy.sample(PROMPT, [black], named)),
        edited[::-1],
    ):
        assert all((a != b).any() for a, b in zip(edited, other, strict=True))


def test_all_edits_of_a_prompt_are_made_from_its_source_in_one_batch(policies, kind):
    """Guidance triples or repeats the batch; the source's part is the same for all edits."""
    policy, calls = policies[kind], []
    hook = network(policy).register_forward_pre_hook(
        lambda _, given, named: calls.append(given[0] if given else named["hidden_states"]),
        with_kwargs=True,
    )
    try:
        policy.sample(PROMPT, [noise(0)], [1, 2, 3])
    finally:
        hook.remove()
    guided = {"kontext": (3, 1), "pix2pix": (9, 1), "sdxl_pix2pix": (9, 1)}
    batch, times = guided.get(kind, (3, 2))
    assert [len(call) for call in calls] == [batch] * (2 * times)
    differs = [(call[0] != call[1]).flatten(1).any(1) for call in calls]
    n = {"pix2pix": 4, "sdxl_pix2pix": 4, "kontext": 4 * 6}.get(kind, 2 * 3)
    assert all(each[:n].all() and not each[n:].any() for each in differs)
    assert all(each[n:].numel() for each in differs)


def test_what_a_policy_is_for_is_read_from_its_pipeline(policies, kind):
    generates = (Task.IMAGE_GENERATION,) * (kind == "kontext")
    assert policies[kind].tasks == (*generates, Task.IMAGE_EDITING)
    assert policies[kind].size_multiple == editors.MULTIPLES[kind]


@pytest.mark.parametrize(
    ("kind", "tasks"),
    [
        ("FluxKontextPipeline", ["image_generation", "image_editing"]),
        ("Flux2KleinPipeline", ["image_generation", "image_editing"]),
        ("QwenImageEditPlusPipeline", ["image_editing"]),
        ("FluxPipeline", ["image_generation"]),
        ("StableDiffusionImg2ImgPipeline", "it redraws an image from its noised latents"),
        ("FluxImg2ImgPipeline", "and takes no instruction"),
        ("StableDiffusionInpaintPipeline", "it fills a mask"),
        ("FluxKontextInpaintPipeline", "it redraws an image .*: it fills a mask"),
        ("QwenImageLayeredPipeline", "it splits an image into layers"),
        ("StableDiffusionUpscalePipeline", "no editor of images$"),
        ("StableDiffusionControlNetXSPipeline", "no editor of images$"),
        ("StableDiffusionAdapterPipeline", "no editor of images$"),
        ("WanImageToVideoPipeline", "no editor of images$"),
    ],
)
def test_an_image_as_input_does_not_make_an_editor(kind, tasks):
    bare = object.__new__(getattr(diffusers, kind))
    if isinstance(tasks, str):
        with pytest.raises(ModelError, match=f"a {kind}, which is neither .*{tasks}"):
            DiffusionPolicy(bare, Denoising(), name="it", batch_size=1)
    else:
        assert DiffusionPolicy(bare, Denoising(), name="it", batch_size=1).tasks == (*tasks,)


@pytest.mark.parametrize(
    ("context", "error", "text"),
    [
        ([noise(0)] * 2, ValueError, "an edit has one source image, not 2"),
        ([Video("a.mp4")], ValueError, "the source of an edit is an image, not a video"),
        ([Image("gone.png")], MediaError, "gone.png"),
        ([], ValueError, "an edit has one source image, not none"),
    ],
)
def test_a_source_that_is_not_one_image_is_refused_before_anything_is_made(
    context, error, text, policies, monkeypatch
):
    monkeypatch.setattr(type(policies["qwen_edit"].pipeline), "__call__", pytest.fail)
    with pytest.raises(error, match=text):
        policies["qwen_edit"].sample(PROMPT, context, [1])


def test_a_source_smaller_than_a_latent_is_refused(editing):
    policy = load(editing["pix2pix"] / "policy", {"steps": 1}, device="cpu")
    with pytest.raises(ValueError, match="a source of 1 x 40 pixels is too small"):
        policy.sample(PROMPT, [noise(0, 40, 1)], [1])


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("pix2pix", {"height": 17, "width": 16}, "must be multiples of 2, not 17 and 16"),
        ("qwen_edit", {"height": 16, "width": 20}, "must be multiples of 8, not 16 and 20"),
        ("pix2pix", {"height": 16}, "give height and width, or neither"),
        ("kontext", {"frames": 4}, "takes no frames"),
        ("pix2pix", {"prompt_tokens": 4}, "takes no prompt_tokens"),
    ],
)
def test_options_that_a_pipeline_does_not_take_are_refused(kind, options, text, editing):
    with pytest.raises(ConfigError, match=text):
        load(editing[kind] / "policy", {"height": None, "width": None} | options, device="cpu")


def test_without_a_size_it_is_the_pipeline_that_chooses(editing, kind):
    policy = DiffusionPolicy(
        load(editing[kind] / "policy", device="cpu").pipeline,
        Denoising(),
        name="it",
        batch_size=1,
    )
    inputs = inputs_of(policy, noise(0))
    given = inputs.pop("image")
    assert (given[0] if isinstance(given, list) else given).size == (30, 20)
    assert inputs.pop("negative_prompt", " ") == " "
    assert inputs == {"num_images_per_prompt": 1}
    if kind == "pix2pix":
        assert policy.sample(PROMPT, [noise(0, 21, 30)], [1])[0].source.shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("pix2pix", (24, 16)),
        ("sdxl_pix2pix", (30, 10)),
        ("kontext", (34, 11)),
        ("qwen_edit", (30, 10)),
    ],
)
def test_a_source_is_cut_where_it_must_have_the_size_of_the_edit(kind, size, policies):
    """Kontext: the area of the edit, 16 x 24 = 34 x 11 + 10, where it would take a megapixel."""
    inputs = inputs_of(policies[kind], noise(0, 10, 30))
    given = inputs["image"]
    assert (given[0] if isinstance(given, list) else given).size == size
    assert inputs.get("max_area", 16 * 24) == 16 * 24
    assert inputs.get("_auto_resize", False) is False


def test_guidance_of_qwen_is_the_one_that_its_network_knows(policies, caplog):
    """It would pass over a guidance_scale, and over a true one without a negative prompt."""
    logging.getLogger("diffusers").addHandler(caplog.handler)
    policy = policies["qwen_edit"]
    inputs = inputs_of(policy, noise(0))
    assert (inputs["true_cfg_scale"], inputs["negative_prompt"]) == (3.0, " ")
    assert "guidance_scale" not in inputs
    caplog.clear()
    policy.sample(PROMPT, [noise(0)], [1])
    assert not caplog.records
    assert inputs_of(policies["kontext"], noise(0))["guidance_scale"] == 3.0


def test_a_pipeline_for_both_generates_without_a_source(policies):
    """Kontext takes its size as an area beside height and width."""
    policy, calls = policies["kontext"], []
    call = type(policy.pipeline).__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(policy.pipeline),
            "__call__",
            lambda self, **named: calls.append(named) or call(self, **named),
        )
        (image,) = policy.sample(PROMPT, [], [1])
    assert image.source.shape == (16, 24, 3)
    assert calls[0]["prompt"] == [PROMPT]
    assert calls[0]["max_area"] == 16 * 24
    assert not calls[0].keys() & {"image", "_auto_resize"}


def test_a_text_to_image_policy_refuses_a_source(tmp_path):
    policy = load(pipelines.pictures(tmp_path), {"steps": 1}, device="cpu")
    with pytest.raises(ValueError, match="generates from a prompt alone and takes no context"):
        policy.sample(PROMPT, [noise(0)], [1])


def test_what_the_safety_checker_withholds_is_none(policies, monkeypatch):
    policy = policies["pix2pix"]
    monkeypatch.setattr(
        policy.pipeline, "run_safety_checker", lambda image, *_: (image, [False, True])
    )
    edited = policy.sample(PROMPT, [noise(0)], [1, 2])
    assert [one is None for one in edited] == [False, True]


def test_values_that_are_no_numbers_are_no_edit(editing):
    policy = load(editing["kontext"] / "policy", {"steps": 1, **SIZE}, device="cpu")
    with torch.no_grad():
        policy.pipeline.vae.decoder.conv_out.bias[0] = math.nan
    with pytest.raises(RuntimeError, match="values that are not finite"):
        policy.sample(PROMPT, [noise(0)], [1])
