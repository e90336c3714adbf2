"""Clips as the released code prepares them: numbers of its own runs, in the shared data."""

import json
import platform

import numpy as np
import pytest
import torch

import unified_reward as ur
from unified_reward import media
from unified_reward.scorers import system


pytestmark = pytest.mark.numeric
TOKENS = {198: "\n", 510: ":\n", 77091: "assistant", 151644: "<|im_start|>", 151645: "<|im_end|>"}
"""Tokens of Qwen2 that end a question; the made-up prompts end as the official ones."""
CLOSE = 2e-3
"""The numbers are rounded to float16 and to three digits."""
OTHER_PROCESSORS = 0.07
"""Four grey values of 255, over the least deviation, 0.261: libswscale's defaults vary by that."""


@pytest.fixture
def reference(shared):
    folder = shared / "reference"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")

    def get(name):
        file = folder / f"{name}_preprocess.json"
        return folder / "clips", json.loads(file.read_text("utf-8"))

    return get


def prepared(name, clip):
    return system(name).prepare(ur.Sample(ur.Task.VIDEO_GENERATION, "a red ball", (clip,)))


SYSTEMS = {"videoreward": ("videoreward", 22), "videoscore-qwen2-vl": ("videoscore_qwen", 13)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_clip_has_the_frames_and_the_pixels_of_the_released_code(name, reference):
    file, n_clips = SYSTEMS[name]
    clips, expected = reference(file)
    assert len(expected) == n_clips
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    for clip, wanted in expected.items():
        got = prepared(name, ur.Video(clips / clip))
        assert list(got.grid) == wanted["grid"], clip
        assert got.text.endswith("".join(TOKENS[i] for i in wanted["last_ids"]))
        assert got.pixels.numel() == wanted["pixels"]["numel"]
        values = got.pixels.flatten()[torch.tensor(wanted["pixels"]["index"])].numpy()
        distance = np.abs(values - wanted["pixels"]["value"]).max()
        assert distance < (CLOSE if is_x86 else OTHER_PROCESSORS), clip
        if is_x86 and wanted.get("pixel_mean") is not None:
            assert got.pixels.mean().item() == pytest.approx(wanted["pixel_mean"], abs=1e-5)
            assert got.pixels.std().item() == pytest.approx(wanted["pixel_std"], abs=1e-5)


@pytest.mark.parametrize("clip", ["n03_8fps.mp4", "n121_2997.mp4"])
def test_exact_colours_would_be_one_grey_value_brighter(clip, reference):
    """So scorers take the colours that the released code took, where judges have exact ones."""
    clips, _ = reference("videoreward")
    near, exact = (
        media.select_frames(clips / clip, lambda *_: (0,), exact=exact).pixels.astype(int)
        for exact in (False, True)
    )
    assert np.abs(exact - near).max() <= 4
    assert 0.5 < (exact - near).mean() < 1.5


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_frames_of_a_number_that_is_3_mod_4_are_two_fewer_not_one_more(name, reference):
    """Wanted are all 7 frames, at 2 and at 8 a second: six, where rounding alone gives eight."""
    clips, expected = reference(SYSTEMS[name][0])
    clip = "n07_2fps.mp4" if name == "videoreward" else "n07_8fps.mp4"
    assert expected[clip]["grid"][0] == prepared(name, ur.Video(clips / clip)).grid[0] == 3
