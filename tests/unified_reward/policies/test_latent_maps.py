"""Maps from a decoder's latents to those of a pipeline are found by probes, or refused."""

import pytest
import torch

from unified_reward.core.errors import ModelError
from unified_reward.policies.latent_maps import find_latent_map


SHAPE = (6, 16)
MEAN = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, -1, 1, 1)
STD = torch.tensor([1.5, 0.5, 2.0, 1.0]).view(1, -1, 1, 1)


def unpack(latents):
    """Tokens of 2 x 2 patches to images of 4 channels, scaled and shifted by channel."""
    b = len(latents)
    images = latents.view(b, 2, 3, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, 4, 4, 6)
    return images * STD + MEAN


def pack(images):
    b = len(images)
    latents = (images - MEAN) / STD
    return latents.view(b, 4, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, *SHAPE)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_packed_and_scaled_latents_are_recovered():
    found = find_latent_map(unpack, SHAPE)
    images = random(3, 4, 4, 6)
    assert (found.shape, found.decoder_shape) == (SHAPE, (1, 4, 4, 6))
    assert torch.allclose(found.encode(images), pack(images), atol=1e-5)


def test_frames_that_are_decoded_one_by_one_belong_to_a_sample():
    found = find_latent_map(lambda x: x.movedim(1, 2).flatten(0, 1) / 0.3, (4, 5, 2, 2))
    assert found.decoder_shape == (5, 4, 2, 2)
    videos = random(2, 4, 5, 2, 2)
    frames = videos.movedim(1, 2).flatten(0, 1) / 0.3
    assert torch.allclose(found.encode(frames), videos, atol=1e-6)


def test_more_latents_than_a_float16_can_count_are_told_apart():
    order = torch.randperm(70_000, generator=torch.Generator().manual_seed(0))
    found = find_latent_map(lambda x: (x.half() * 0.13)[:, order], (70_000,))
    assert torch.equal(order[found.order], torch.arange(70_000))


def test_a_transposed_packing_is_seen():
    """The mutation that mixes up rows and columns of tokens."""
    found = find_latent_map(unpack, SHAPE)
    images = random(1, 4, 4, 6)
    order = found.order.view(2, 3, 16).transpose(0, 1).flatten()
    transposed = found._replace(order=order).encode(images)
    assert not torch.allclose(transposed, pack(images), atol=1e-2)


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (lambda x: x[:, :3], "48 numbers reach the decoder for 96 latents"),
        (lambda x: x * 0, "96 numbers reach the decoder for 96 latents"),
        (lambda x: x.flip(0) * 0 + x[:, :1], "no permutation of its latents"),
        (lambda x: x + 0.1 * x.mean(), "what the pipeline decodes is"),
        (torch.tanh, "what the pipeline decodes is"),
    ],
)
def test_what_is_no_permutation_is_refused(decode, text):
    with pytest.raises(ModelError, match=text):
        find_latent_map(decode, SHAPE)
