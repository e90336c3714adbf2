"""Scorers that are a CLIP model: the cosine of an image and its caption."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cosine_similarity

from unified_reward.scorers.base import Prepared
from unified_reward.scorers.images import ImageScorer


CONTEXT = 77
"""Tokens that a caption may have, begin and end included."""


class ClipScorer(ImageScorer):
    """A CLIP model; its text tower ends at the token with the highest id, which is the end."""

    control = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>")

    @abstractmethod
    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Ids of captions cut to 77 tokens, shape (B, at most 77), padded on the right."""

    @abstractmethod
    def n_tokens(self, prompt: str) -> int:
        """Tokens of a caption before it is cut."""

    def cosine(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of image and caption features, shape (B,), in [-1, 1]."""
        ids = self.token_ids(prompts).to(self.device)
        images = self.module.get_image_features(pixel_values=pixels).pooler_output
        captions = self.module.get_text_features(input_ids=ids).pooler_output
        return cosine_similarity(images, captions)

    def notes(self, prepared: Prepared) -> tuple[str, ...]:
        """Note on a caption that was cut."""
        return cut_note(self.n_tokens(prepared.text), CONTEXT)


def cut_note(n_tokens: int, limit: int) -> tuple[str, ...]:
    """Note on a caption with more tokens than the limit.

    >>> cut_note(80, 77)
    ('the caption has 80 tokens, of which the first 77 were read',)
    """
    if n_tokens <= limit:
        return ()
    return (f"the caption has {n_tokens} tokens, of which the first {limit} were read",)
