"""Scorers that are a CLIP model: the cosine of an image and its caption."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPModel

from unified_reward.checkpoints.tensor_keys import MappedTensor, State, read_json, rename_keys
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.errors import ModelError
from unified_reward.scorers.base import Prepared
from unified_reward.scorers.images import SIDE, ImageScorer


CONTEXT = 77
"""Tokens that a caption may have, begin and end included."""
_KEPT = 1024
"""Captions whose features are kept: of 1024 numbers each, 4 MiB in float32."""


class CaptionFeatures:
    """Features of the captions used last, so that a caption of many images is encoded once.

    The text tower is causal, and read at the first end token: neither padding nor the other
    captions of a batch change a caption's features by more than rounding.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._weights: object = None
        self._lock = Lock()

    def get(
        self,
        captions: Sequence[str],
        encode: Callable[[Sequence[str]], Tensor],
        weights: object,
    ) -> Tensor:
        """Features of captions, shape (B, features).

        Args:
            captions: B captions; those that are not kept are encoded together, each once.
            encode: Gives the features of captions.
            weights: State of the weights of ``encode``; after a change nothing is kept.
        """
        with self._lock:
            if weights != self._weights:
                self._kept, self._weights = {}, weights
            missing = [text for text in dict.fromkeys(captions) if text not in self._kept]
            if missing:
                # Copies, as a row would keep the features of its whole batch in memory.
                self._kept |= zip(missing, map(torch.clone, encode(missing)), strict=True)
            for text in captions:
                self._kept[text] = self._kept.pop(text)  # moved to the end
            features = torch.stack([self._kept[text] for text in captions])
            for text in [*self._kept][:-_KEPT]:
                del self._kept[text]
            return features


class ClipScorer(ImageScorer):
    """A CLIP model; its text tower ends at the token with the highest id, which is the end."""

    control = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>")

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self._captions = CaptionFeatures()

    @abstractmethod
    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Ids of captions cut to 77 tokens, shape (B, at most 77), padded on the right."""

    @abstractmethod
    def n_tokens(self, prompt: str) -> int:
        """Tokens of a caption before it is cut."""

    def cosine(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of image and caption features, shape (B,), in [-1, 1]."""
        images = self.module.get_image_features(pixel_values=pixels).pooler_output
        if torch.is_grad_enabled():
            captions = self._encode(prompts)
        else:
            captions = self._captions.get(prompts, self._encode, self._text_weights())
        return cosine_similarity(images, captions)

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        ids = self.token_ids(prompts).to(self.device)
        return self.module.get_text_features(input_ids=ids).pooler_output

    def _text_weights(self) -> list[tuple[int, int]]:
        """Place and version of each tensor of the text tower: other values change one of them."""
        tower = (self.module.text_model, self.module.text_projection)
        weights = (weight for part in tower for weight in part.parameters())
        return [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]

    def notes(self, prepared: Prepared) -> tuple[str, ...]:
        """Note on a caption that was cut."""
        return cut_note(self.n_tokens(prepared.text), CONTEXT)


class ClipFolder(ClipScorer):
    """A CLIP model in a folder as transformers saves it, with its configuration and tokenizer."""

    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    needed: ClassVar = {"configuration": ("config.json",), **ClipScorer.needed}
    ignored: ClassVar = {r".*\.position_ids": "positions, which are counted"}
    prefix: ClassVar[str] = ""
    """Text before every caption."""

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer: Any = load_tokenizer(folder)

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A CLIP model of the sizes in ``config.json``."""
        return CLIPModel(read_clip_config(folder))

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """Names are those of transformers already."""
        return rename_keys(state, ())

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids by the tokenizer in the folder."""
        options = {"padding": True, "truncation": True, "max_length": CONTEXT}
        texts = [self.prefix + prompt for prompt in prompts]
        return self.tokenizer(texts, return_tensors="pt", **options).input_ids

    def n_tokens(self, prompt: str) -> int:
        """Begin and end included."""
        return len(self.tokenizer(self.prefix + prompt, verbose=False).input_ids)


def read_clip_config(folder: Path) -> CLIPConfig:
    """Configuration of a CLIP that reads images of 224 pixels and captions of 77 tokens.

    Raises:
        ModelError: It is another model, or a CLIP of other inputs.
    """
    file = folder / "config.json"
    given = read_json(file)
    if (kind := given.get("model_type")) != "clip":
        raise ModelError(f"{file} is of a {kind}; a clip is wanted")
    config: Any = CLIPConfig.from_dict(given)
    sizes = config.vision_config.image_size, config.text_config.max_position_embeddings
    if sizes != (SIDE, CONTEXT):
        raise ModelError(
            f"{file} is of a CLIP for images of {sizes[0]} pixels and {sizes[1]} tokens; "
            f"one for {SIDE} and {CONTEXT} is wanted"
        )
    return config


def cut_note(n_tokens: int, limit: int) -> tuple[str, ...]:
    """Note on a caption with more tokens than the limit.

    >>> cut_note(80, 77)
    ('the caption has 80 tokens, of which the first 77 were read',)
    """
    if n_tokens <= limit:
        return ()
    return (f"the caption has {n_tokens} tokens, of which the first {limit} were read",)
