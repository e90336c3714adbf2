"""Clips as the released code prepares them: numbers of its own runs, in the shared data."""

import json
import platform

import av
import numpy as np
import pytest
import torch

import unified_reward as ur
from unified_reward.scorers import system


pytestmark = pytest.mark.numeric
CLOSE = 2e-3
"""The numbers are rounded to float16 and to three digits."""
OWN_COLOURS = 0.07
"""Four grey values of 255, over the least deviation, 0.261; ours are converted exactly."""


@pytest.fixture
def reference(shared):
    folder = shared / "reference"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")

    def get(name):
        file = folder / f"{name}_preprocess.json"
        return folder / "clips", json.loads(file.read_text("utf-8"))

    return get


def as_decord(file):
    """All frames and their rate; libswscale's default conversion is decord's."""
    with av.open(str(file)) as container:
        (stream,) = container.streams.video
        rate = float(stream.average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return ur.Video(np.stack(frames), "THWC", fps=rate)


def prepared(name, clip):
    return system(name).prepare(ur.Sample(ur.Task.VIDEO_GENERATION, "a red ball", (clip,)))


SYSTEMS = {"videoreward": ("videoreward", 22), "videoscore-qwen2-vl": ("videoscore_qwen", 13)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_clip_has_the_frames_and_the_pixels_of_the_released_code(name, reference):
    """From the same frames; those of x86, since libswscale's defaults differ by processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("decord's colours are those of libswscale on x86")
    file, n_clips = SYSTEMS[name]
    clips, expected = reference(file)
    assert len(expected) == n_clips
    for clip, wanted in expected.items():
        got = prepared(name, as_decord(clips / clip))
        assert list(got.grid) == wanted["grid"], clip
        assert got.pixels.numel() == wanted["pixels"]["numel"]
        values = got.pixels.flatten()[torch.tensor(wanted["pixels"]["index"])].numpy()
        assert np.abs(values - wanted["pixels"]["value"]).max() < CLOSE, clip
        if wanted.get("pixel_mean") is not None:
            assert got.pixels.mean().item() == pytest.approx(wanted["pixel_mean"], abs=1e-5)
            assert got.pixels.std().item() == pytest.approx(wanted["pixel_std"], abs=1e-5)


@pytest.mark.parametrize("clip", ["n03_2fps.mp4", "n07_2fps.mp4", "n23_8fps.mp4", "tiny32x24.mp4"])
def test_a_file_differs_from_the_released_code_by_the_colours_alone(clip, reference):
    """Three frames make two, seven make six; 23 frames at 8 a second make 5.75, so six."""
    clips, expected = reference("videoreward")
    got = prepared("videoreward", ur.Video(clips / clip))
    wanted = expected[clip]
    assert list(got.grid) == wanted["grid"]
    values = got.pixels.flatten()[torch.tensor(wanted["pixels"]["index"])].numpy()
    assert np.abs(values - wanted["pixels"]["value"]).max() < OWN_COLOURS
    assert any("one grey value darker" in line for line in system("videoreward").card.deviations)


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_frames_of_a_number_that_is_3_mod_4_are_two_fewer_not_one_more(name, reference):
    """Wanted are all 7 frames, at 2 and at 8 a second: six, where rounding alone gives eight."""
    clips, expected = reference(SYSTEMS[name][0])
    clip = "n07_2fps.mp4" if name == "videoreward" else "n07_8fps.mp4"
    assert expected[clip]["grid"][0] == prepared(name, ur.Video(clips / clip)).grid[0] == 3
