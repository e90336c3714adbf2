"""Trainable networks of any diffusers pipeline, with its own conditions, latents and schedule.

What the networks take is observed while the pipeline samples, and proven to give the same
predictions before anything is trained. Knows no family of pipelines, and no loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any, NamedTuple

import torch
from PIL.Image import Image as PILImage
from torch import Tensor, nn

from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.samples import Task
from unified_reward.policies.diffusion import DiffusionPolicy, refuse_control
from unified_reward.policies.latent_maps import LatentMap, find_latent_map
from unified_reward.policies.layouts import (
    Layout,
    Mixture,
    Place,
    at,
    close,
    explain,
    find_layout,
    merge,
    replaced,
    rows,
    select,
)
from unified_reward.policies.observation import Call, Observation, Step, networks, observe
from unified_reward.policies.packing import FORM, flatten, group_calls, pack_call, unflatten
from unified_reward.policies.prompt_lengths import prompt_lengths
from unified_reward.train.schedule import read_schedule


Condition = Mapping[str, Tensor | list[Tensor]]
"""Packed calls of the network by name, each of shape (B, ...), or a list of B tensors where their
shapes differ."""
_STEPS = 3
"""Steps of an observed run; the fewest that show a linear scale of timesteps."""


class Size(NamedTuple):
    """Size of a sample."""

    height: int
    """In pixels, as the width."""
    width: int
    frames: int | None = None
    """Frames of a video; None for an image."""


class Networks(nn.ModuleDict):
    """Networks of a pipeline by name, in one module, as accelerate wants it."""

    def forward(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """First output of the named network."""
        return self[name](**arguments)[0]


@dataclass
class _Known:
    """Everything an observed run shows for samples of one size."""

    layout: Layout
    mixture: Mixture
    call: int
    """Number of the call for the prompt, in a step."""
    piece: int
    """Number of its rows in this call."""
    pieces: int
    shape: tuple[int, ...]
    """Shape of the latents of a sample."""
    output: Tensor
    """An output of the network for one sample."""
    argument_shape: tuple[int, ...]
    """Shape of the noisy argument for one sample, without the batch."""


class Denoiser:
    """Trained networks of a pipeline, with the encoders of its inputs."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Wrap the pipeline of a policy.

        Args:
            policy: A policy; its sampling options decide guidance that is embedded, the length of
                prompts and the size of the source of an edit.

        Raises:
            ModelError: The scheduler has no schedule of training, or no network can be trained.
        """
        self.policy = policy
        self.pipeline: Any = policy.pipeline
        self.schedule = read_schedule(self.pipeline.scheduler)
        found = networks(self.pipeline)
        if not found:
            raise ModelError(
                f"a {type(self.pipeline).__name__} cannot be aligned: it has no unet and no "
                "transformer"
            )
        self.network: Any = Networks(found)
        """The trained networks, also while accelerate wraps them."""
        self.networks = found
        self._known: dict[Size, _Known] = {}
        self._maps: dict[Size, LatentMap] = {}
        for name, network in found.items():
            if getattr(network, "config", {}).get("time_cond_proj_dim"):
                raise ModelError(
                    f"a guidance-distilled {name} (time_cond_proj_dim) cannot be aligned"
                )

    @property
    def edits(self) -> bool:
        """True where the condition of a sample is an instruction and a source image."""
        return self.policy.tasks == (Task.IMAGE_EDITING,)

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            raise ModelError(
                f"a {type(self.pipeline).__name__} cannot be aligned: it has no autoencoder"
            )
        return vae

    @cached_property
    def _boundary(self) -> float | None:
        """Timestep from which on the first network is called; below it is the second."""
        ratio = self.pipeline.config.get("boundary_ratio")
        steps = self.pipeline.scheduler.config.num_train_timesteps
        return None if ratio is None or len(self.networks) == 1 else ratio * steps

    def trained_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Tasks, of those of the policy, whose pairs are learned."""
        return [task for task in tasks if (task is Task.IMAGE_EDITING) == self.edits]

    def freeze(self) -> None:
        """Freeze all parts of the pipeline and set them to evaluation mode."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(requires_grad=False).eval()
