"""Pictures and clips drawn by tiny random pipelines."""

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.policies import pipelines
from unified_reward.policies import Denoising, load, seeds
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.types import ConfigError, Image, ModelError, Task, Video


PROMPT = "a red star"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return pipelines.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return pipelines.clips(tmp_path_factory.mktemp("clips"))


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
