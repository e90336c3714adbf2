"""Frames for VideoScore, against the processor of transformers that its code calls."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import Idefics2ImageProcessorPil

from unified_reward.scorers.videoscore import fitted


@pytest.mark.parametrize("size", [(48, 83), (400, 500), (1200, 300)])
def test_frames_are_fitted_as_the_processor_does_to_the_bit(size):
    pixels = np.random.default_rng(7).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    frames = [PIL.Image.fromarray(one) for one in pixels]
    done = Idefics2ImageProcessorPil()([frames], return_tensors="pt")
    found, mask = fitted(frames)
    assert torch.equal(found, done.pixel_values[0])
    assert torch.equal(mask, done.pixel_attention_mask[0])
    assert (found.dtype, mask.dtype) == (torch.float32, done.pixel_attention_mask.dtype)
