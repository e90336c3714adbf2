"""Pictures and clips drawn by tiny random pipelines."""

import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unified_reward.policies import pipelines
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import DEFAULTS, Denoising, Sampling, load, seeds, write_defaults
from unified_reward.policies.diffusion import DiffusionPolicy


PROMPT = "a red star"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return pipelines.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return pipelines.clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return pipelines.wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def policy(pictures):
    return load(pictures, {"steps": 2}, device="cpu")


def pixels(made):
    return np.stack([one.source for one in made]).astype(int)


def test_a_picture_depends_on_its_seed_and_its_prompt_and_not_on_its_neighbours(policy):
    named = seeds("p", 3, 0)
    drawn = pixels(policy.sample(PROMPT, [], named))
    assert np.array_equal(drawn, pixels(policy.sample(PROMPT, [], named)))
    alone = pixels([policy.sample(PROMPT, [], [one])[0] for one in named])
    assert np.abs(drawn - alone).max() <= 1, "more than the rounding of another batch"
    for other in (
        pixels(policy.sample(PROMPT, [], seeds("p", 3, 1))),
        pixels(policy.sample("a blue cat", [], named)),
        drawn[[1, 2, 0]],
    ):
        assert all(np.abs(a - b).max() > 1 for a, b in zip(drawn, other, strict=True))


def test_options_reach_the_pipeline(pictures, clips):
    size = {"steps": 1, "height": 24, "width": 32}
    (drawn,) = load(pictures, size, device="cpu").sample(PROMPT, [], [1])
    assert isinstance(drawn, Image)
    assert drawn.source.shape == (24, 32, 3)
    policy = load(clips, size | {"frames": 3, "fps": 4}, device="cpu")
    (clip,) = policy.sample(PROMPT, [], [1])
    assert isinstance(clip, Video)
    assert (clip.source.shape, clip.fps) == ((3, 24, 32, 3), 4)
    assert policy.tasks == (Task.VIDEO_GENERATION,)
    plain, led = (load(pictures, {"steps": 2, "guidance": g}, device="cpu") for g in (1.0, 30.0))
    assert (pixels(plain.sample(PROMPT, [], [1])) != pixels(led.sample(PROMPT, [], [1]))).any()


def test_what_the_safety_checker_withholds_is_none(policy):
    policy.pipeline.run_safety_checker = lambda image, *_: (image, [False, True, False])
    drawn = policy.sample(PROMPT, [], [1, 2, 3])
    assert [one is None for one in drawn] == [False, True, False]


def test_values_that_are_no_numbers_are_no_picture(policy):
    with torch.no_grad():
        policy.pipeline.vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(RuntimeError, match="no finite numbers"):
        policy.sample(PROMPT, [], [1])


def test_a_context_is_refused(policy):
    with pytest.raises(ValueError, match="cannot see a context"):
        policy.sample(PROMPT, [Image("a.png")], [1])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"frames": 4}, "takes no frames"),
        ({"fps": 4.0}, "takes no fps"),
        ({"prompt_tokens": 16, "frames": 1}, "takes no frames, prompt_tokens"),
        ({"temperature": 1.0}, "is a diffusers pipeline and takes no temperature"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, told, pictures):
    with pytest.raises(ConfigError, match=told):
        load(pictures, option)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("StableDiffusionXLPipeline", Task.IMAGE_GENERATION),
        ("FluxPipeline", Task.IMAGE_GENERATION),
        ("Flux2Pipeline", Task.IMAGE_GENERATION),
        ("WanPipeline", Task.VIDEO_GENERATION),
        ("LTXPipeline", Task.VIDEO_GENERATION),
        ("LattePipeline", Task.VIDEO_GENERATION),
        ("SanaVideoPipeline", Task.VIDEO_GENERATION),
        ("WanImageToVideoPipeline", None),
        ("StableDiffusionInpaintPipeline", None),
        ("StableAudioPipeline", None),
        ("DDPMPipeline", None),
    ],
)
def test_what_a_pipeline_makes_is_read_from_its_call(kind, task):
    bare = object.__new__(getattr(diffusers, kind))
    if task is None:
        with pytest.raises(ModelError, match=f"{kind}, which is neither text-to-image nor"):
            DiffusionPolicy(bare, Denoising(), name="it", batch_size=1)
    else:
        policy = DiffusionPolicy(bare, Denoising(), name="it", batch_size=1)
        assert policy.tasks == (task,)


def test_pickled_weights_are_not_read(tmp_path):
    folder = pipelines.pictures(tmp_path)
    safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), safe.with_suffix(".bin"))
    safe.unlink()
    with pytest.raises(ModelError, match="cannot be loaded as a diffusers pipeline"):
        load(folder, device="cpu")


def test_code_beside_a_pipeline_is_not_run(tmp_path):
    folder = pipelines.pictures(tmp_path / "it")
    index = folder / "model_index.json"
    told = index.read_text("utf-8").replace('"StableDiffusionPipeline"', '["own", "Own"]')
    index.write_text(told, "utf-8")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", "utf-8")
    with pytest.raises(ModelError, match="cannot be loaded as a diffusers pipeline"):
        load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("asked", "drawn"), [(1, 1), (5, 5), (6, 9), (8, 9), (9, 9)])
def test_a_clip_has_the_frames_asked_for_where_they_are_drawn_by_fours(asked, drawn, wan):
    """Wan draws 1, 5, 9 … frames and rounds what is between, 6 to 5 and 8 to 9."""
    size = {"steps": 1, "guidance": 1.0, "height": 16, "width": 16}
    policy = load(wan, size | {"frames": asked}, device="cpu")
    seen = []
    decode = policy.pipeline.vae.decode
    policy.pipeline.vae.decode = lambda latent, **k: seen.append(decode(latent, **k)) or seen[0]
    (clip,) = policy.sample(PROMPT, [], [1])
    assert seen[0][0].shape[2] == drawn
    assert clip.source.shape == (asked, 16, 16, 3)
    assert clip.fps == 8


def test_tokens_of_a_prompt_reach_the_pipeline(wan):
    size = {"steps": 1, "guidance": 1.0, "height": 16, "width": 16, "frames": 1}
    for tokens in (16, 24):
        policy = load(wan, size | {"prompt_tokens": tokens}, device="cpu")
        seen = []
        policy.pipeline.transformer.register_forward_pre_hook(
            lambda _, __, told, seen=seen: seen.append(told["encoder_hidden_states"].shape),
            with_kwargs=True,
        )
        policy.sample(PROMPT, [], [1])
        assert seen == [(1, tokens, 16)]


def test_a_folder_may_say_how_it_is_sampled_and_the_caller_overrides_it(tmp_path):
    folder = pipelines.pictures(tmp_path)
    write_defaults(Denoising(steps=1, height=24, width=32, guidance=3.0), folder)
    policy = load(folder, {"steps": 2, "height": None}, device="cpu")
    assert policy.options == Denoising(steps=2, height=24, width=32, guidance=3.0)
    (drawn,) = policy.sample(PROMPT, [], [1])
    assert drawn.source.shape == (24, 32, 3)


def test_only_what_was_chosen_is_kept(tmp_path):
    write_defaults(Denoising(steps=4), tmp_path)
    assert json.loads((tmp_path / DEFAULTS).read_text("utf-8")) == {"steps": 4}
    write_defaults(Sampling(temperature=0.0), tmp_path)
    told = json.loads((tmp_path / DEFAULTS).read_text("utf-8"))
    assert told == {"temperature": 0.0, "max_new_tokens": 256}


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (b"{steps: 4}", "sampling.json is no JSON object of options: Expecting property name"),
        (b"\xff\xfe{", "sampling.json is no JSON object of options: "),
        (b"[4]", r"sampling.json is no JSON object of options, but \[4\]"),
        (b'"four"', "sampling.json is no JSON object of options, but 'four'"),
        (b'{"temperature": 1}', "is a diffusers pipeline and takes no temperature"),
    ],
)
def test_options_in_a_folder_that_cannot_be_read_are_an_error(told, wrong, tmp_path):
    folder = pipelines.pictures(tmp_path)
    (folder / DEFAULTS).write_bytes(told)
    with pytest.raises(ConfigError, match=wrong):
        load(folder, device="cpu")


def test_a_pipeline_that_was_saved_without_a_part_loads(tmp_path):
    """Stable Diffusion 3 is often kept without its largest text encoder."""
    folder = pipelines.sd3(tmp_path)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    assert index["text_encoder_3"] == [None, None]
    policy = load(folder, {"steps": 1, "guidance": 1.0}, device="cpu")
    (drawn,) = policy.sample(PROMPT, [], [1])
    assert drawn.source.shape == (16, 16, 3)
