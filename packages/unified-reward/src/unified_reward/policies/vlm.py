"""Answers about pictures and clips, sampled from a vision-language model."""

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


class VLMPolicy:
    """Samples answers; a clip is shown as 8 frames, first and last included.

    Only temperature shapes the distribution: whatever else the checkpoint's generation config asks
    for (top-p, a penalty on repetition) is not applied.
    """

    tasks = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)

    def __init__(self, vlm: VLM, how: Sampling) -> None:
        self.vlm = vlm
        self.how = how
        self.name = vlm.name
        self.batch_size = vlm.batch_size

    @torch.inference_mode()
    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[str]:
        """Answer once for each seed, in one pass.

        Raises:
            MediaError: The context cannot be read.
            ValueError: Nothing to look at, or more than the model's context holds.
            RuntimeError: The model could not answer.
        """
        inputs = self.vlm.inputs([asked(prompt, context)] * len(seeds))
        noisy = [GumbelNoise(self.how.temperature, seeds)] if self.how.temperature else []
        new = self.vlm.continued(inputs, self.how.max_new_tokens, *noisy)
        told = self.vlm.chat.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in told]


class GumbelNoise(LogitsProcessor):
    """Turns the most probable token into a sampled one, each row by its own generator.

    The argmax of ``scores / temperature + g``, where each g is -log of an exponential draw, is
    distributed exactly as softmax(scores / temperature) (Gumbel 1954). ``generate`` itself draws
    all rows from one generator, so that an answer would depend on its neighbours.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(one) for one in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy scores of shape (B, vocabulary), for B seeds.

        Raises:
            RuntimeError: A score is not a number.
        """
        if scores.isnan().any():
            raise RuntimeError("the scores of the next token are not numbers; try another dtype")
        # In double precision: the noise must reach tokens of any probability.
        drawn = [
            torch.empty(scores.shape[-1], dtype=torch.float64).exponential_(generator=one)
            for one in self._generators
        ]
        return scores / self._temperature - torch.stack(drawn).log().to(scores)


def asked(prompt: str, context: Sequence[Image | Video]) -> Request:
    """The user turn that a policy answers, in sampling and in training.

    Raises:
        MediaError: The context cannot be read.
        ValueError: It is empty.
    """
    if not context:
        raise ValueError("there is nothing in context to look at")
    return Request((*(one for part in context for one in _pictures(part)), prompt))


def _pictures(part: Image | Video) -> tuple[media.PILImage, ...]:
    if isinstance(part, Image):
        return (media.open_image(part),)
    return media.sample_frames(part, _FRAMES).images()
