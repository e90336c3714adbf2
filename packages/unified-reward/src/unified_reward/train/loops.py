"""Parts of the training loops of pipelines: accelerator, order, noise, and state to resume from.

Order and noise depend on the seed and the number of the sample only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from torch import Tensor

from unified_reward.core.errors import ConfigError
from unified_reward.io.atomic import replacing


def build_accelerator(
    precision: Literal["no", "bf16"] | None, trackers: Sequence[str] = (), logs: Path | None = None
) -> Accelerator:
    """Accelerator of a training.

    Args:
        precision: Mixed precision; None is bf16 on a GPU and full precision elsewhere.
        trackers: Names of trackers.
        logs: Folder for those that write files.

    Raises:
        ConfigError: The launcher shards the model.
    """
    on_gpu = torch.cuda.is_available()
    # An earlier training in this process may have chosen another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision or ("bf16" if on_gpu else "no"),
        cpu=not on_gpu,
        log_with=[*trackers] or None,  # of none accelerate warns
        project_dir=logs,
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError("a pipeline cannot be sharded; launch without FSDP and ZeRO")
    return accelerator


def shuffled_indices(n: int, numbers: Sequence[int], seed: int) -> list[int]:
    """Indices below n of the numbers, from 0 on; each comes once before any comes again."""
    epochs = {number // n for number in numbers}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(n) for epoch in epochs}
    return [int(orders[number // n][number % n]) for number in numbers]


class NoiseSample(NamedTuple):
    """Timesteps and noise of a batch of B samples or pairs."""

    steps: Tensor
    """Indices of the timesteps in the schedule, shape (B,)."""
    noise: Tensor
    """Noise, which chosen and rejected of a pair share. Shape (B, ...)."""


class NoiseSampler:
    """Samples pairs, timesteps and noise by the number of the sample, from 0 on."""

    def __init__(self, n_pairs: int, steps: Tensor, seed: int) -> None:
        """Sample from the given indices of timesteps, each with the same probability."""
        self._n_pairs, self._steps, self._seed = n_pairs, steps, seed

    def pair_indices(self, numbers: Sequence[int]) -> list[int]:
        """Indices of pairs; every pair comes once before any comes again."""
        return shuffled_indices(self._n_pairs, numbers, self._seed)

    def sample(self, numbers: Sequence[int], shape: Sequence[int]) -> NoiseSample:
        """Timesteps and noise for latents of this shape, without the batch."""
        steps: list[int] = []
        noise: list[Tensor] = []
        for number in numbers:
            # Hashed, because torch uses the lowest 32 bits of a seed only.
            seed = np.random.SeedSequence([self._seed, number]).generate_state(1)
            generator = torch.Generator().manual_seed(int(seed[0]))
            index = torch.randint(len(self._steps), (), generator=generator)
            steps.append(int(self._steps[index]))
            noise.append(torch.randn(*shape, generator=generator))
        return NoiseSample(torch.tensor(steps), torch.stack(noise))


class TrainState:
    """State from which a killed run resumes, in one file that is complete or absent."""

    def __init__(
        self,
        folder: Path,
        trained: Mapping[str, Tensor],
        optimiser: Any,
        scheduler: Any,
        figures: Sequence[str],
    ) -> None:
        """Set up.

        Args:
            folder: Folder of the file.
            trained: Tensors by name, which are loaded in place.
            optimiser: The optimiser.
            scheduler: Scheduler of its learning rate.
            figures: Names of the figures of a step, ``loss`` among them.
        """
        self._folder, self._figures = folder, figures
        self._trained, self._optimiser, self._scheduler = trained, optimiser, scheduler

    def save(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Save the state, and delete older ones."""
        path = self._folder / f"state-{len(history['loss']):06}.pt"
        state = {
            "weights": {name: weight.detach() for name, weight in self._trained.items()},
            "history": dict(history),
            "optimiser": self._optimiser.state_dict(),
            "scheduler": self._scheduler.state_dict(),
        }
        with replacing(path) as file:
            torch.save(state, file)
        for older in self._folder.glob("state-*.pt"):
            if older != path:
                older.unlink()

    def load(self, device: torch.device) -> dict[str, list[Any]]:
        """Load the newest state, if there is one; the figures logged so far.

        Raises:
            ConfigError: It has weights of other names.
        """
        if (path := self.newest()) is None:
            return {name: [] for name in self._figures}
        state = torch.load(path, map_location=device, weights_only=True)
        figures = [name for name in self._figures if name not in state["history"]]
        if state["weights"].keys() != self._trained.keys() or figures:
            raise ConfigError(
                f"{path} has {'other figures' if figures else 'weights of other names'}, as of "
                "another version or with other settings; delete "
                f"{self._folder} to start again, or give another output"
            )
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(state["weights"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scheduler.load_state_dict(state["scheduler"])
        return state["history"]

    def newest(self) -> Path | None:
        """File of the newest state; None without one."""
        return max(self._folder.glob("state-*.pt"), default=None)
