"""Choice of the side on which batches are padded in training, by trying it on the model."""

from __future__ import annotations

import math
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor

from unified_reward.backends.chat import Chat
from unified_reward.backends.equivalence import FAULTS
from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.requests import Request


_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_TOLERANCE = 1e-3
"""Largest difference of hidden states, as a share of the largest of them."""


@torch.inference_mode()
def choose_padding(model: Any, chat: Chat) -> None:
    """Pad on a side where rows of unlike lengths and images are in a batch what they are alone.

    Padding in front of a row changes it in models whose recurrent layers or positions do not see
    the mask; padding behind it cannot be seen by a causal model. In some, a row sees how many
    images another has.

    Args:
        model: A vision-language model.
        chat: Its processor, whose ``padding_side`` is set.

    Raises:
        ModelError: The model is right on neither side, or cannot take what the processor makes.
    """
    try:
        _try_sides(model, chat)
    except FAULTS as error:
        raise ModelError(
            f"{type(model).__name__} cannot be trained with {type(chat.processor).__name__}: "
            f"{one_line(error)}"
        ) from error


def _try_sides(model: Any, chat: Chat) -> None:
    image = PIL.Image.new("RGB", (64, 64), "teal")
    chat.padding_side = "left"
    longer = Request((image, "a larger blue circle " * 8, image))
    requests = [Request((image, "red")), longer]
    alone = [_hidden(model, chat.batch([request])) for request in requests]
    largest = max(float(row.abs().amax()) for [row] in alone)
    if not math.isfinite(largest):
        return  # training says what is not a number
    errors: list[float] = []
    for side in _SIDES:
        chat.padding_side = side
        rows = _hidden(model, chat.batch(requests))
        pairs = zip(rows, alone, strict=True)
        errors.append(max(float((row - own).abs().amax()) for row, [own] in pairs) / largest)
        if errors[-1] < _TOLERANCE:
            return
    raise ModelError(
        f"{type(model).__name__} cannot be trained in batches: a row beside another is not what it "
        f"is alone, but differs by {errors[0]:.1%} with padding in front of it, and by "
        f"{errors[1]:.1%} with padding behind it"
    )


def _hidden(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Hidden states of each row without its padding."""
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state.float()
    return [row[mask.bool()] for row, mask in zip(hidden, inputs["attention_mask"], strict=True)]
