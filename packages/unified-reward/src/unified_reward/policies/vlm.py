"""Answers about images and videos, sampled from a vision-language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from unified_reward import media
from unified_reward.backends.hf_vlm import VLM
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Sampling


_FRAMES = 8
_COLDEST = 1e-30
"""Lowest temperature, such that it is not 0 in single precision."""


class VLMPolicy:
    """Samples answers; of a video it sees 8 frames, first and last included.

    Only the temperature is applied: top-p, repetition penalty and other settings of the
    checkpoint's generation config are not.
    """

    tasks = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)

    def __init__(self, vlm: VLM, options: Sampling) -> None:
        self.vlm = vlm
        self.options = options
        self.name = vlm.name
        self.batch_size = 1 if vlm.ways.batches == "of one" else vlm.batch_size
        self.dtype = str(vlm.model.dtype)

    @torch.inference_mode()
    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[str]:
        """Sample an answer for each seed, in one batch.

        Raises:
            MediaError: The context cannot be read.
            ValueError: The context is empty, or longer than the model's.
            RuntimeError: The model could not answer.
        """
        inputs = self.vlm.inputs([build_request(prompt, context)] * len(seeds))
        noisy = [GumbelNoise(self.options.temperature, seeds)] if self.options.temperature else []
        new = self.vlm.generate_tokens(inputs, self.options.max_new_tokens, *noisy)
        return [text.strip() for text in self.vlm.chat.decode(new.tolist())]


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise so that greedy decoding samples, each row by its own generator.

    The argmax of ``scores / temperature + g``, where each g is -log of an exponential sample, is
    distributed exactly as softmax(scores / temperature) (Gumbel 1954). ``generate`` itself samples
    all rows from one generator, so that an answer would depend on its batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy scores of shape (B, vocabulary), for B seeds."""
        # In double precision: the noise must reach tokens of any probability.
        exponential = [
            torch.empty(scores.shape[-1], dtype=torch.float64).exponential_(generator=generator)
            for generator in self._generators
        ]
        # From 0 down, so that a low temperature overflows to what is never sampled.
        below = (scores - scores.amax(-1, keepdim=True)) / max(self._temperature, _COLDEST)
        return below - torch.stack(exponential).log().to(scores)


def build_request(prompt: str, context: Sequence[Image | Video]) -> Request:
    """The user turn that a policy answers, in sampling and in training.

    Raises:
        MediaError: The context cannot be read.
        ValueError: The context is empty.
    """
    if not context:
        raise ValueError("the context holds no image or video")
    return Request((*(image for medium in context for image in _images(medium)), prompt))


def _images(medium: Image | Video) -> tuple[media.PILImage, ...]:
    if isinstance(medium, Image):
        return (media.open_image(medium),)
    return media.sample_frames(medium, _FRAMES).images()
