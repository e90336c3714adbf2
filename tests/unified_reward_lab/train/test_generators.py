"""The tiny generators: pipelines that draw, and autoencoders that begin frame by frame."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unified_reward import policies
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Size
from unified_reward.train.denoisers import Denoiser
from unified_reward_lab.microworld import split_of
from unified_reward_lab.train.autoencoders import (
    VIDEO_FRAMES,
    AutoencoderTraining,
    build_image_autoencoder,
    build_video_autoencoder,
    captioned_pixels,
    frame_by_frame,
    train_autoencoder,
)
from unified_reward_lab.train.generators import GeneratorTraining, train_generator


ITEMS = 8
MEDIA = ("image", "video")
TASKS = {"image": Task.IMAGE_GENERATION, "video": Task.VIDEO_GENERATION}
SHAPES = {"image": (64, 64, 3), "video": (8, 64, 64, 3)}
SIZES = {"image": Size(64, 64), "video": Size(64, 64, VIDEO_FRAMES)}
LATENTS = {"image": (4, 8, 8), "video": (8, 5, 8, 8)}


def generator(medium):
    taught = AutoencoderTraining(steps=1, batch_size=2)
    rate = 1e-3 if medium == "video" else 0.0
    sizes = {"steps": 2, "items": ITEMS, "batch_size": 4, "texts": 400}
    return GeneratorTraining(medium, taught, **sizes, muon_lr=rate)


@pytest.fixture(scope="module", params=MEDIA)
def taught(request, tmp_path_factory):
    """A trained generator: its samples, the folder of its pipeline, and the losses."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, train_generator(generator(request.param), folder)


@pytest.fixture(scope="module")
def videos():
    torch.manual_seed(0)
    return build_video_autoencoder().eval()


def items(medium):
    """Pixels of the items that a generator of seed 0 is taught."""
    is_video = medium == "video"
    return torch.stack([captioned_pixels(i, is_video=is_video, seed=1)[1] for i in range(ITEMS)])


def test_there_is_a_loss_for_every_step(taught):
    assert [step for step, _ in taught[2]] == [1, 2]
    assert all(np.isfinite(loss) for _, loss in taught[2])


def test_the_pipeline_is_a_policy_that_draws_as_the_microworld_does(taught):
    medium, folder, _ = taught
    policy = policies.load(folder, device="cpu")
    assert policy.tasks == (TASKS[medium],)
    assert (policy.options.steps, policy.options.guidance) == (8, 1.0)
    entry, other, again = policy.sample("a red circle", (), [1, 2, 1])
    assert type(entry) is {"image": Image, "video": Video}[medium]
    assert entry.source.shape == SHAPES[medium]
    assert np.array_equal(entry.source, again.source)
    assert not np.array_equal(entry.source, other.source)
    if medium == "video":
        assert entry.fps == 4


def test_every_weight_is_written_in_half_precision_as_safetensors(taught):
    files = [file for file in taught[1].rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    weights = [load_file(file) for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 3
    assert {value.dtype for entry in weights for value in entry.values()} == {torch.float16}


def test_latents_have_unit_variance(taught):
    """For images over all, of videos channel by channel, where the mean is 0 too."""
    medium, folder, _ = taught
    policy = policies.load(folder, device="cpu")
    denoiser = Denoiser(policy)
    denoiser.encode_prompt("a red circle", SIZES[medium])
    latents = denoiser.encode_pixels(items(medium), SIZES[medium])
    assert latents.shape == (ITEMS, *LATENTS[medium])
    if medium == "image":
        assert float(latents.std()) == pytest.approx(1, rel=0.01)
    else:
        assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(8), rtol=0.01)
        assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(8), atol=0.02)


@pytest.mark.slow
def test_one_seed_teaches_the_same(taught, tmp_path):
    medium, _, losses = taught
    assert train_generator(generator(medium), tmp_path) == losses


def test_prompts_are_read_as_far_as_captions_go(taught):
    policy = policies.load(taught[1], device="cpu")
    denoiser, size = Denoiser(policy), SIZES[taught[0]]
    captions = [captioned_pixels(i, is_video=taught[0] == "video", seed=5)[0] for i in range(100)]
    denoiser.encode_prompt(max(captions, key=len), size)
    with pytest.raises(DataError, match="tokens, and the text encoder reads"):
        denoiser.encode_prompt("a red circle " * 40, size)


@pytest.mark.parametrize("is_video", [False, True])
def test_what_is_drawn_is_of_the_training_split_and_depends_on_its_place_alone(is_video):
    made = [captioned_pixels(i, is_video=is_video, seed=3) for i in range(60)]
    assert {split_of(caption) for caption, _ in made} == {"train"}
    caption, pixels = captioned_pixels(7, is_video=is_video, seed=3)
    assert caption == made[7][0]
    assert torch.equal(pixels, made[7][1])
    assert captioned_pixels(7, is_video=is_video, seed=4)[0] != caption
    assert pixels.shape == ((3, VIDEO_FRAMES, 64, 64) if is_video else (3, 64, 64))
    assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1
    if is_video:
        assert torch.equal(pixels[:, -1], pixels[:, -2])


def test_nine_frames_are_five_latent_frames_of_eight_channels(videos):
    with torch.no_grad():
        latent = videos.encode(items("video")[:2]).latent_dist.mode()
        back = videos.decode(latent).sample
    assert latent.shape == (2, 8, 5, 8, 8)
    assert back.shape == (2, 3, 9, 64, 64)


def test_a_image_is_four_channels():
    torch.manual_seed(0)
    latent = build_image_autoencoder().encode(items("image")[:2]).latent_dist.mode()
    assert latent.shape == (2, 4, 8, 8)


def test_before_training_a_still_video_comes_back_the_same_in_all_its_frames(videos):
    still = items("video")[:2, :, :1]
    with torch.no_grad():
        back = videos.decode(videos.encode(still.repeat(1, 1, 9, 1, 1)).latent_dist.mode()).sample
        entry = videos.decode(videos.encode(still).latent_dist.mode()).sample
    assert entry.shape == (2, 3, 1, 64, 64)
    assert torch.allclose(back, entry.expand_as(back), atol=1e-5)


def test_before_training_a_latent_frame_is_the_last_of_the_two_it_stands_for(videos):
    """Frames 0, 2, 4, 6 and 8, each as if it stood alone; the others leave no trace."""
    video = torch.randn(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = videos.encode(video).latent_dist.mode()
        alone = [videos.encode(video[:, :, i : i + 1]).latent_dist.mode() for i in range(0, 9, 2)]
        assert torch.allclose(whole, torch.cat(alone, 2), atol=1e-5)
        back = videos.decode(whole).sample
        images = [videos.decode(entry).sample for entry in alone]
    twice = torch.cat([images[0], *(entry for each in images[1:] for entry in (each, each))], 2)
    assert torch.allclose(back, twice, atol=1e-5)


def test_a_taught_autoencoder_of_videos_still_works_frame_by_frame(videos):
    torch.manual_seed(0)
    model = build_video_autoencoder()
    train_autoencoder(model, AutoencoderTraining(steps=2, batch_size=2))
    video = items("video")[:1]
    with torch.no_grad():
        whole = model.encode(video).latent_dist.mode()
        alone = [model.encode(video[:, :, i : i + 1]).latent_dist.mode() for i in range(0, 9, 2)]
        assert torch.allclose(whole, torch.cat(alone, 2), atol=1e-5)
        assert not torch.allclose(whole, videos.encode(video).latent_dist.mode(), atol=1e-3)
        with frame_by_frame(model):
            assert torch.allclose(model.encode(video).latent_dist.mode(), whole, atol=1e-5)
            back = model.decode(whole).sample
        assert torch.allclose(model.decode(whole).sample, back, atol=1e-5)


@pytest.mark.parametrize("build", [build_image_autoencoder, build_video_autoencoder])
def test_a_few_steps_bring_images_nearer(build):
    torch.manual_seed(0)
    losses = train_autoencoder(build(), AutoencoderTraining(steps=16, batch_size=2))
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_decoded_values_beyond_the_range_are_still_taught():
    """Wan's own decoding cuts them off, and with them their gradient."""
    torch.manual_seed(0)
    model = build_video_autoencoder()
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(5.0)
    losses = train_autoencoder(model, AutoencoderTraining(steps=16, batch_size=2, lr=1e-2))
    assert losses[0] > 4
    assert losses[-1] < 0.5 * losses[0]


def test_the_sampling_of_videos_is_that_of_the_microworld(taught):
    losses_seen = json.loads((taught[1] / "sampling.json").read_text("utf-8"))
    sizes = {"height": 64, "width": 64, "frames": 8, "fps": 4}
    few = {"steps": 8, "guidance": 1.0}
    assert losses_seen == few | (sizes | {"prompt_tokens": 40} if taught[0] == "video" else {})
