"""Choice of the side on which batches are padded in training, by trying it on the model."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torch import Tensor

from unified_reward.backends.batching import FAULTS
from unified_reward.backends.chat import Chat
from unified_reward.backends.equivalence import tolerance_of
from unified_reward.backends.image_features import to_device
from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.requests import Request


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
    image = PIL.Image.new("RGB", (64, 64), "teal")
    longer = Request((image, "a larger blue circle " * 8, image))
    requests = [Request((image, "red")), longer]
    errors: list[float] = []
    try:
        alone = [row for request in requests for row in _hidden(model, chat.batch([request]))]
        largest = max(float(row.abs().amax()) for row in alone)
        for side in ("left", "right"):
            chat.padding_side = side
            pairs = zip(_hidden(model, chat.batch(requests)), alone, strict=True)
            errors.append(max(float((row - own).abs().amax()) for row, own in pairs) / largest)
            # A model whose numbers are NaN is refused by its first loss.
            if not errors[-1] > 10 * tolerance_of(model):
                return
    except FAULTS as error:
        raise ModelError(
            f"{type(model).__name__} cannot be trained with {type(chat.processor).__name__}: "
            f"{one_line(error)}"
        ) from error
    raise ModelError(
        f"{type(model).__name__} cannot be trained in batches: a row beside another is not what it "
        f"is alone, but differs by {errors[0]:.1%} with padding in front of it, and by "
        f"{errors[1]:.1%} with padding behind it"
    )


def _hidden(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Hidden states of each row without its padding."""
    inputs = to_device(batch, model)
    out = model.base_model(**inputs, use_cache=False)
    # Without a trunk of its own, a model has logits.
    hidden = out.get("last_hidden_state", out.get("logits")).float()
    return [row[mask.bool()] for row, mask in zip(hidden, inputs["attention_mask"], strict=True)]
