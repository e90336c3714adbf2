"""A step of DPO and of GRPO of a FLUX-sized transformer, through the library's own code.

Weights are random and made on the device: transformer and text encoders in bfloat16, autoencoder
and adapters in float32.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.diffusion_parts import pipelines
from unified_reward.core.samples import Example, Sample, Task
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
from unified_reward.train.group_collector import GroupCollector, HeldOut
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_loop import RewardLoop
from unified_reward.train.latents import Resolution, encode_pairs
from unified_reward.train.loops import NoiseSampler, build_accelerator
from unified_reward.train.optim import OptimConfig
from unified_reward.train.policy_updates import AdaptedNetworks
from unified_reward.train.processes import Processes
from unified_reward.train.sample_sheets import SampleSheet


STEPS = 2
"""The first warms the device up; the second is timed."""
GROUP = 2


def measure(size: str, device: str) -> dict[str, Any]:
    """Train a random pipeline for two steps by each algorithm.

    Args:
        size: ``flux`` for the published sizes, ``tiny`` for a dry run.
        device: Device of the weights, such as ``cuda``.

    Returns:
        ``model``, its sizes and seconds to make it; ``dpo`` and ``grpo``, with seconds of a step,
        peak memory in GiB (None on a CPU) and the last loss.
    """
    name = "real" if size == "flux" else "tiny"
    start = time.perf_counter()
    pipeline, sampling = pipelines.flux(name, device)
    policy = pipelines.wrap(pipeline, sampling, f"flux, {size}")
    weights = sum(weight.numel() for weight in pipeline.transformer.parameters())
    model = {"parameters": weights, "dtype": str(pipeline.transformer.dtype).partition(".")[2]}
    model |= {"pixels": sampling.height, "made_s": _seconds(start, device)}
    with tempfile.TemporaryDirectory() as folder:
        dpo = _dpo(policy, Path(folder), device)
        pipeline.transformer.unload_lora()
        grpo = _grpo(policy, Path(folder), device)
    return {"model": model, "dpo": dpo, "grpo": grpo}


def _seconds(start: float, device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _reset_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float | None:
    is_cuda = torch.device(device).type == "cuda"
    return torch.cuda.max_memory_allocated() / 2**30 if is_cuda else None


def _optim(steps: int) -> OptimConfig:
    return OptimConfig(steps=steps, batch_size=1, accumulate=1, lr=1e-5, lora_rank=16)


def _dpo(policy: DiffusionPolicy, folder: Path, device: str) -> dict[str, Any]:
    """Encode two pairs, and train on one in each step."""
    side = policy.options.height or 0
    pairs = pipelines.noise_pairs(2, side, folder)
    denoiser = Denoiser(policy)
    denoiser.freeze()
    accelerator = build_accelerator("bf16")
    _reset_peak(device)
    start = time.perf_counter()
    encoded = encode_pairs(pairs, denoiser, folder / "encoded", Resolution(), print)
    encoding = _seconds(start, device)
    model = DPOModel(denoiser, DiffusionDPO(_optim(STEPS), dtype="bfloat16"))
    optimiser = torch.optim.AdamW([*model.trained.values()], lr=1e-5)
    sampler = NoiseSampler(len(encoded), torch.arange(len(denoiser.schedule.alpha)), 0)
    seconds, loss = 0.0, 0.0
    for step in range(STEPS):
        start = time.perf_counter()
        indices = sampler.pair_indices([step])
        chosen, rejected, condition = encoded.batch(indices, accelerator.device)
        sample = sampler.sample([step], chosen.shape[1:])
        with accelerator.autocast():
            terms = model.loss(chosen, rejected, condition, sample)
        accelerator.backward(terms["loss"])
        optimiser.step()
        optimiser.zero_grad()
        loss, seconds = float(terms["loss"].detach()), _seconds(start, device)
    trained = sum(weight.numel() for weight in model.trained.values())
    figures = {"pairs": 1, "trained": trained, "encode_two_pairs_s": encoding}
    return {**figures, "step_s": seconds, "peak_gib": _peak_gib(device), "loss": loss}


def _grpo(policy: DiffusionPolicy, folder: Path, device: str) -> dict[str, Any]:
    """Sample, reward and train a group in each step; from one asking for rewards to the next."""
    marks: list[float] = []

    def reward(samples: list[Sample]) -> list[float]:
        marks.append(_seconds(0.0, device))
        return [float(i) for i in range(len(samples))]

    config = DiffusionGRPO(_optim(STEPS), group=GROUP, prompts_per_step=1, dtype="bfloat16")
    prompts = [Example(Task.IMAGE_GENERATION, "a red star", (), id=f"p{i}") for i in range(STEPS)]
    accelerator = build_accelerator("bf16")
    _reset_peak(device)
    model = AdaptedNetworks(policy, config.optim)
    history = _loop(policy, model, prompts, reward, config, accelerator, folder / "run")
    figures = {"samples": GROUP, "denoising_steps": policy.steps, "trained_steps": config.window}
    timed = {"step_s": marks[1] - marks[0], "peak_gib": _peak_gib(device)}
    return {**figures, **timed, "loss": history["loss"][-1]}


def _loop(
    policy: DiffusionPolicy,
    model: AdaptedNetworks,
    prompts: list[Example],
    reward: Any,
    config: DiffusionGRPO,
    accelerator: Accelerator,
    out: Path,
) -> dict[str, list[Any]]:
    rollouts = GroupSampler(policy, prompts, config, accelerator)
    rewards = GroupRewards({"order": reward})
    processes = Processes(accelerator)
    collector = GroupCollector(rollouts, rewards, processes, print, HeldOut())
    trainer = RewardLoop(model, collector, config, accelerator, out)
    return trainer.train(SampleSheet(policy, [], out / "samples"), lambda: None)
