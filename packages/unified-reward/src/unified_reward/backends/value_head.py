"""A scalar reward model: the trunk of a vision-language checkpoint with a linear head.

Values come from the hidden state of the last token; no text is generated. Knows neither tasks nor
families.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unified_reward.backends.batching import bisect_failures
from unified_reward.backends.hf_vlm import VLM
from unified_reward.backends.shared import hidden_of
from unified_reward.checkpoints.pretrained import load_errors
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Request, ValueEstimate
from unified_reward.core.verdicts import Failed


WEIGHTS = "value_head.safetensors"
_LEAST_SIGMA = 1e-3


class ValueHead(nn.Module):
    """A linear map from hidden states to values and, optionally, their standard deviations."""

    def __init__(self, width: int, values: int, *, uncertain: bool) -> None:
        super().__init__()
        self.values = values
        self.linear = nn.Linear(width, values * (2 if uncertain else 1))
        nn.init.normal_(self.linear.weight, std=width**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values and their standard deviations, always in float32.

        Args:
            hidden: Shape (B, width).

        Returns:
            Two tensors of shape (B, values); None for the second without uncertainty.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            weight_device = self.linear.weight.device
            outputs = self.linear(hidden.to(weight_device, torch.float32))
        means, *spread = outputs.split(self.values, dim=-1)
        return means, nn.functional.softplus(spread[0]) + _LEAST_SIGMA if spread else None


def last_hidden(trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Hidden state of the last token of padded prompts, shape (B, width)."""
    hidden = trunk(**inputs, use_cache=False).last_hidden_state
    mask = inputs["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last.to(hidden.device)]


def trunk_of(vlm: VLM) -> Any:
    """Model without its language head.

    Raises:
        ModelError: It cannot be run without.
    """
    if (trunk := vlm.model.base_model) is vlm.model:
        raise ModelError(
            f"{vlm.name} ({vlm.model.config.model_type}) takes no value head: it has no trunk that "
            "runs without its language head"
        )
    return trunk


class ValueHeadModel:
    """A trunk with its head, which estimates values of requests in batches."""

    def __init__(self, vlm: VLM, head: ValueHead) -> None:
        self.name = vlm.name
        self._vlm = vlm
        self._trunk = trunk_of(vlm)
        self._head = head.to(vlm.model.device).eval()
        self.networks = [*vlm.networks, self._head]

    def describe(self) -> dict[str, Any]:
        """Architecture, dtype, device and ways of the trunk; see `VLM.describe`."""
        return self._vlm.describe()

    def values(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        """Values of every request: same length, same order; one bad item fails alone."""
        if self._vlm.ways.prefixes == "repeated":
            return self._vlm.map_batches(requests, self._estimate)
        return self._estimate_shared(requests)

    @torch.inference_mode()
    def _estimate_shared(self, requests: Sequence[Request]) -> list[ValueEstimate | Failed]:
        vlm = self._vlm
        found: list[ValueEstimate | Failed] = []
        for hidden in hidden_of(vlm, self._trunk, requests, vlm.limits(), vlm.worth()):
            if isinstance(hidden, Failed):
                found.append(hidden)
            else:
                found += bisect_failures([hidden[None]], self._estimates, vlm.name)
        return found

    @torch.inference_mode()
    def _estimate(self, requests: list[Request]) -> list[ValueEstimate]:
        return self._estimates([last_hidden(self._trunk, self._vlm.inputs(requests))])

    def _estimates(self, parts: list[Tensor]) -> list[ValueEstimate]:
        """Estimates by hidden states, in parts of shape (B, width)."""
        hidden = torch.cat(parts)
        means, sigmas = self._head(hidden)
        rows = [()] * len(hidden) if sigmas is None else map(tuple, sigmas.tolist())
        return [ValueEstimate(tuple(m), s) for m, s in zip(means.tolist(), rows, strict=True)]


def load_value_model(folder: Path, vlm: VLM, *, n_values: int, uncertain: bool) -> ValueHeadModel:
    """Load the scalar model in a folder.

    Args:
        folder: Folder with ``value_head.safetensors``.
        vlm: The trunk, loaded from the same folder.
        n_values: Number of values.
        uncertain: True if each value has a standard deviation.

    Raises:
        ModelError: The head is missing or of another size.
    """
    return ValueHeadModel(vlm, load_head(folder, vlm, n_values=n_values, uncertain=uncertain))


def load_head(folder: Path, vlm: VLM, *, n_values: int, uncertain: bool) -> ValueHead:
    """Load the head in a folder; arguments and errors as of `load_value_model`."""
    head = ValueHead(width_of(vlm), n_values, uncertain=uncertain)
    with load_errors(f"{folder / WEIGHTS} does not fit the head that the card describes"):
        head.load_state_dict(load_file(folder / WEIGHTS))
    return head


def save_head(head: ValueHead, folder: Path) -> None:
    """Write a head beside its trunk."""
    save_file({k: v.cpu().contiguous() for k, v in head.state_dict().items()}, folder / WEIGHTS)


def width_of(vlm: VLM) -> int:
    """Width of the trunk's hidden states."""
    return cast("int", vlm.model.config.get_text_config().hidden_size)
