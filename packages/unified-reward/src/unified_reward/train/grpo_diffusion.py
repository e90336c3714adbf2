"""Reinforcement learning of a diffusers pipeline from rewards: windowed GRPO, and DiffusionNFT.

The pipeline samples unmodified. Prompts, window, noise and timesteps of a step depend on the seed
and the step's number only, so that a killed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor

from unified_reward import policies
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import (
    ConfigError,
    DataError,
    MediaError,
    ModelError,
    ServerError,
    one_line,
)
from unified_reward.core.samples import Example, Image, Sample, Task, Video
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.recorded import Rollout, StochasticSampler
from unified_reward.policies.step_rules import RuleName
from unified_reward.train.adapters import merge_adapters
from unified_reward.train.loops import TrainState, build_accelerator, shuffled_indices
from unified_reward.train.optim import OptimConfig, loss_progress, non_finite_error
from unified_reward.train.policy_updates import (
    AdaptedNetworks,
    Group,
    GRPOUpdate,
    NFTOptions,
    NFTUpdate,
    Update,
)
from unified_reward.train.rollouts import (
    GroupRewards,
    GroupScores,
    RewardFunction,
    diversity,
    read_prompts,
)
from unified_reward.train.sample_sheets import SampleSheet


_FIGURES = ("loss", "deviation", "clipped", "kl", "norm_ratio")
_LOGGED = (*_FIGURES, "reward", "spread", "diversity", "failed", "failed_groups", "constant_groups")
_HELD_OUT_SAMPLES = 4
_FAILED_STEPS = 3
"""Steps in a row without a single reward after which a run stops."""


@dataclass(frozen=True)
class DiffusionGRPO:
    """Settings of the reinforcement learning of a pipeline."""

    optim: OptimConfig
    """``steps`` counts rollouts, each followed by ``updates`` optimiser steps over all its groups;
    ``batch_size`` samples are made and trained in a batch, and ``accumulate`` must be 1."""
    algorithm: Literal["grpo", "nft"] = "grpo"
    """Policy gradient of recorded steps, or DiffusionNFT on the sampled latents."""
    group: int = 8
    """Samples of a prompt, >= 2."""
    prompts_per_step: int = 4
    """Groups of a step, >= 1."""
    updates: int = 1
    """Optimiser steps on the samples of a step, >= 1."""
    window: int = 2
    """Stochastic steps that are trained, >= 1; of grpo only, as all up to ``beta``."""
    window_range: tuple[int, int] | None = None
    """First and last index of steps that the window lies in; default the first half."""
    rule: RuleName = "ddim"
    """Step rule inside the window."""
    strength: float | None = None
    """Strength of the step rule, > 0; default the published one."""
    ratio: Literal["plain", "guarded"] = "plain"
    """Ratio of densities, as it is or by GRPO-Guard (arXiv:2510.22319)."""
    clip: float = 1e-4
    """Clip range of the ratio, > 0."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference, >= 0."""
    nft: NFTOptions = field(default_factory=NFTOptions)
    weights: tuple[float, ...] = ()
    """Weight of each reward; empty for 1."""
    min_spread: float = 0.0
    """Standard deviation of a reward in a group up to which differences are noise, >= 0."""
    held_out: int = 0
    """Prompts that are kept out of training."""
    held_out_every: int = 10
    """Steps between measurements of the reward of the held-out prompts, >= 1."""
    patience_s: float = 120.0
    """Seconds to wait for a reward server that does not answer."""
    precision: Literal["no", "bf16"] | None = None
    """Mixed precision; None for bf16 on a GPU and full precision elsewhere."""
    samples_every: int = 0
    """Steps between sheets of samples of four prompts, written to ``samples``; 0 for none."""

    def __post_init__(self) -> None:
        least = {"group": 2, "prompts_per_step": 1, "updates": 1, "window": 1, "held_out_every": 1}
        least |= {"held_out": 0, "samples_every": 0, "beta": 0, "min_spread": 0, "patience_s": 0}
        for name, low in least.items():
            if not low <= (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be at least {low}, and finite, not {value}")
        if not 0 < self.clip < math.inf:
            raise ConfigError(f"clip must be above 0, not {self.clip}")
        if self.strength is not None and not self.strength > 0:
            raise ConfigError("strength must be above 0: a step without noise has no density")
        if not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"weights must be finite numbers, not {self.weights}")
        if self.optim.accumulate != 1:
            raise ConfigError("optim.accumulate must be 1: a step accumulates over its groups")
        if self.optim.muon_lr:
            raise ConfigError("adapters are trained by AdamW only; leave optim.muon_lr at 0")
        if not self.optim.lora_rank:
            raise ConfigError("grpo trains adapters; give optim.lora_rank")


def train_pipeline(
    policy: str | Path,
    prompts: Path,
    rewards: Mapping[str, BaseJudge | RewardFunction],
    config: DiffusionGRPO,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a text-to-image, text-to-video or editing pipeline by the rewards of its samples.

    Args:
        policy: Folder or hub id of the pipeline.
        prompts: A file of rows with prompts.
        rewards: Judges that score, or functions, by name.
        config: Settings.
        out: Folder of ``adapter/``, of ``policy/``, the pipeline with the adapters merged, and of
            ``checkpoints/``, from which a killed run resumes.
        log: Called with the reason for each row or group that is left out.

    Returns:
        ``rows`` by status, ``prompts``, ``losses`` and the other figures by step (None where a step
        had no group to learn from), and ``held_out``, pairs of step and mean reward.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: A prompt is repeated, or no prompt can be used.
        ModelError: The pipeline cannot be trained, loss or gradient is not finite, or there are no
            rewards any more; the message names the state to resume from.
    """
    accelerator = build_accelerator(config.precision)
    if accelerator.num_processes > 1:
        raise ConfigError("grpo runs in one process; launch it without accelerate")
    size = config.optim.batch_size
    maker = policies.load(policy, device=str(accelerator.device), dtype="float32", batch_size=size)
    if not isinstance(maker, DiffusionPolicy):
        raise ConfigError(f"{policy} is a vision-language model, not a diffusers pipeline")
    read, rows = read_prompts(prompts, maker.tasks, log)
    scorer = GroupRewards(
        rewards, config.weights, min_spread=config.min_spread, patience_s=config.patience_s
    )
    scorer.check_tasks(maker.tasks)
    held_out, trained = _split(read, config)
    model = AdaptedNetworks(maker, config.optim)
    rollouts = _Rollouts(maker, trained, config, accelerator)
    trainer = _Trainer(model, rollouts, scorer, accelerator, out / "checkpoints", log)
    trainer.held_out = held_out
    history = trainer.train(SampleSheet(maker, (held_out or trained)[:4], out / "samples"))
    merge_adapters(model.adapters, out / "adapter", maker.pipeline)
    maker.pipeline.save_pretrained(out / "policy", safe_serialization=True)
    policies.write_defaults(maker.options, out / "policy")
    measured = history.pop("held_out")
    figures = {
        name: [None if value is None else round(value, 9) for value in values]
        for name, values in history.items()
    }
    losses = [[step, loss] for step, loss in enumerate(figures.pop("loss"), 1)]
    return {"rows": rows, "prompts": len(trained), "losses": losses, **figures} | {
        "held_out": measured
    }


def _split(
    prompts: Sequence[Example], config: DiffusionGRPO
) -> tuple[list[Example], list[Example]]:
    """Held-out prompts, which the seed decides, and the others.

    Raises:
        ConfigError: Too few are left for a step, in which none may repeat.
    """
    n, seed = len(prompts), config.optim.seed
    order = np.random.default_rng([seed, 1]).permutation(n)
    out = {int(i) for i in order[: config.held_out]}
    trained = [prompt for i, prompt in enumerate(prompts) if i not in out]
    if len(trained) < config.prompts_per_step:
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step}, and there are {len(trained)} prompts"
            + (f" beside the {len(out)} that are held out" if out else "")
        )
    return [prompts[i] for i in sorted(out)], trained


class _Rollouts:
    """Samples of the groups of a step."""

    def __init__(
        self,
        maker: DiffusionPolicy,
        prompts: Sequence[Example],
        config: DiffusionGRPO,
        accelerator: Accelerator,
    ) -> None:
        self.config = config
        self._maker, self._prompts, self._accelerator = maker, prompts, accelerator
        self._sampler = StochasticSampler(maker, config.rule, config.strength)
        self._low, self._high = self._check_window() if config.algorithm == "grpo" else (0, 0)

    def _check_window(self) -> tuple[int, int]:
        """First and last index of the steps that the window may hold.

        Raises:
            ConfigError: The window does not fit.
        """
        config, maker = self.config, self._maker
        default = getattr(maker.takes.get("num_inference_steps"), "default", None)
        steps = maker.options.steps or default
        if not isinstance(steps, int):
            raise ConfigError(f"give the number of steps of {maker.name}, in its sampling.json")
        half = max(config.window, steps // 2) - 1
        low, high = config.window_range or (0, half)
        # The last step has no noise.
        if not 0 <= low <= high <= steps - 2 or high - low + 1 < config.window:
            raise ConfigError(
                f"a window of {config.window} steps does not lie in {low} to {high} of {steps} "
                "steps, of which the last is never stochastic"
            )
        return low, high

    def window(self, step: int) -> range:
        """Stochastic steps of a rollout, shared by its groups; empty for DiffusionNFT."""
        config = self.config
        if config.algorithm == "nft":
            return range(0)
        generator = np.random.default_rng([config.optim.seed, step, 2])
        start = int(generator.integers(self._low, self._high - config.window + 1, endpoint=True))
        return range(start, start + config.window)

    def numbers(self, step: int) -> range:
        """Numbers of the groups of a step."""
        n = self.config.prompts_per_step
        return range(step * n, (step + 1) * n)

    def sample(self, step: int, number: int) -> list[Rollout]:
        """Sample a group of a step, from 0, in batches.

        Raises:
            MediaError: The source of an edit cannot be opened.
            ValueError: The pipeline refuses the prompt.
            ModelError: The pipeline broke.
        """
        prompt, config = self.prompt(number), self.config
        seeds = policies.seeds(prompt.id, config.group, self._seed(number))
        size = config.optim.batch_size
        context = _context(prompt)
        with self._accelerator.autocast():
            return [
                self._sampler.sample(prompt.prompt, context, seeds[i : i + size], self.window(step))
                for i in range(0, len(seeds), size)
            ]

    def prompt(self, number: int) -> Example:
        """Prompt of a group; each comes once before any comes again."""
        (index,) = shuffled_indices(len(self._prompts), [number], self.config.optim.seed)
        return self._prompts[index]

    def _seed(self, number: int) -> int:
        sequence = np.random.SeedSequence([self.config.optim.seed, number, 3])
        return int(sequence.generate_state(1, np.uint64)[0])

    def sample_held_out(self, prompt: Example) -> list[Image | Video | None]:
        """Sample a prompt without stochastic steps, always from the same seeds."""
        seeds = policies.seeds(prompt.id, _HELD_OUT_SAMPLES, self.config.optim.seed)
        size = self.config.optim.batch_size
        samples: list[Image | Video | None] = []
        with self._accelerator.autocast():
            for i in range(0, len(seeds), size):
                part = seeds[i : i + size]
                samples += self._maker.sample(prompt.prompt, _context(prompt), part)
        return samples


def _context(prompt: Example) -> tuple[Image | Video, ...]:
    return prompt.context if prompt.task is Task.IMAGE_EDITING else ()


def _question(prompt: Example, sample: Image | Video | None) -> Sample | None:
    """Question to a judge about a sample of a prompt."""
    if sample is None:
        return None
    return Sample(prompt.task, prompt.prompt, (sample,), prompt.context, prompt.criteria, prompt.id)


class _Trainer:
    """Weights, optimiser and history of a run."""

    def __init__(
        self,
        model: AdaptedNetworks,
        rollouts: _Rollouts,
        rewards: GroupRewards,
        accelerator: Accelerator,
        folder: Path,
        log: Callable[[str], None],
    ) -> None:
        self.config = config = rollouts.config
        self.held_out: list[Example] = []
        self._model, self._rollouts, self._rewards = model, rollouts, rewards
        self._accelerator, self._log = accelerator, log
        optim = config.optim
        self._weights = [*model.trained.values()]
        self._optimiser: Any = torch.optim.AdamW(
            self._weights, optim.lr, weight_decay=optim.weight_decay
        )
        self._schedule = get_scheduler(
            "cosine",
            self._optimiser,
            num_warmup_steps=round(optim.steps * optim.warmup),
            num_training_steps=optim.steps,
        )
        self._old: dict[str, Tensor] = {}
        """Weights of the policy that samples, where it is another."""
        if config.algorithm == "nft":
            self._old = {name: each.detach().clone() for name, each in model.trained.items()}
        self._update = self._build_update()
        old = {f"old {name}": weight for name, weight in self._old.items()}
        self.state = TrainState(
            folder, model.trained | old, self._optimiser, self._schedule, (*_LOGGED, "held_out")
        )

    def _build_update(self) -> Update:
        config = self.config
        if config.algorithm == "nft":
            return NFTUpdate(
                self._model,
                self._accelerator,
                self._old,
                config.nft,
                config.optim.seed,
            )
        return GRPOUpdate(
            self._model,
            self._accelerator,
            clip=config.clip,
            beta=config.beta,
            kind=config.ratio,
        )

    def train(self, sheet: SampleSheet) -> dict[str, list[Any]]:
        """Train up to the last step; the figures by step."""
        history = self.state.load(self._accelerator.device)
        try:
            self._run(history, sheet)
        except ServerError as error:
            # Rewards come before a step changes anything.
            self.state.save(history)
            raise ServerError(f"{error}; resume from {self.state.newest()}") from error
        return history

    def _run(self, history: dict[str, list[Any]], sheet: SampleSheet) -> None:
        config, steps = self.config, self.config.optim.steps
        with loss_progress() as bar:
            task = bar.add_task("learning from rewards", total=steps, loss="")
            for step in range(len(history["loss"]), steps):
                self._measure(step, history)
                figures = self._step(step)
                for name in _LOGGED:
                    history[name].append(figures.get(name))
                self._check_rewards(history)
                reward = figures["reward"]
                text = "" if reward is None else f"reward {reward:.3f}"
                bar.update(task, completed=step + 1, loss=text)
                if config.optim.save_every and (step + 1) % config.optim.save_every == 0:
                    self.state.save(history)
                if config.samples_every and (step + 1) % config.samples_every == 0:
                    sheet.write(step + 1)
            self._measure(steps, history)

    def _check_rewards(self, history: Mapping[str, Sequence[float]]) -> None:
        """Refuse to go on where no sample has got a reward for some steps."""
        recent = history["failed_groups"][-_FAILED_STEPS:]
        n, step = self.config.prompts_per_step, len(history["loss"])
        if len(recent) == _FAILED_STEPS and min(recent) == n:
            raise ModelError(
                f"no group got rewards in steps {step - _FAILED_STEPS + 1} to {step}; "
                f"the last state is {self.state.newest()}"
            )

    def _step(self, step: int) -> dict[str, float | None]:
        """Sample, score and learn; the figures of the step."""
        with self._model.with_weights(self._old):
            groups, figures = self._sample(step)
        useful = [group for group in groups if group.scores.status == "scored"]
        updates: list[dict[str, float]] = []
        for i in range(self.config.updates if useful else 0):
            found = self._update.backward(useful, step * self.config.updates + i)
            norm = float(torch.nn.utils.clip_grad_norm_(self._weights, 1.0))
            if not all(map(math.isfinite, (norm, *found.values()))):
                raise non_finite_error("loss or gradient", step + 1, self.state.newest())
            self._optimiser.step()
            self._optimiser.zero_grad()
            updates.append(found)
        if updates:
            self._schedule.step()
            self._follow(step + 1)
        for name in _FIGURES:
            values = [found[name] for found in updates if name in found]
            figures[name] = float(np.mean(values)) if values else None
        return figures

    @torch.no_grad()
    def _follow(self, n: int) -> None:
        """Move the old policy towards the trained weights after step n, from 1."""
        decay = min(self.config.nft.decay_rate * n, self.config.nft.decay_limit)
        for name, weight in self._old.items():
            weight.lerp_(self._model.trained[name], 1 - decay)

    def _sample(self, step: int) -> tuple[list[Group], dict[str, float | None]]:
        """Groups of a step with rewards, and the figures of their samples."""
        made = [self._make(step, number) for number in self._rollouts.numbers(step)]
        samples = [
            [sample for rollout in rollouts for sample in rollout.samples]
            or [None] * self.config.group
            for _, rollouts in made
        ]
        questions = [
            [_question(prompt, sample) for sample in group]
            for (prompt, _), group in zip(made, samples, strict=True)
        ]
        scores = self._rewards.score(questions)
        rows = zip(self._rollouts.numbers(step), made, scores, strict=True)
        groups = [Group(number, *given, score) for number, given, score in rows]
        self._report(step, groups)
        figures = _figures(scores)
        distances = [value for group in samples if (value := diversity(group)) is not None]
        figures["diversity"] = float(np.mean(distances)) if distances else None
        return groups, figures

    def _make(self, step: int, number: int) -> tuple[Example, list[Rollout]]:
        """Sample a group; without rollouts where its prompt is refused."""
        prompt = self._rollouts.prompt(number)
        try:
            rollouts = self._rollouts.sample(step, number)
            is_made = any(sample for rollout in rollouts for sample in rollout.samples)
            if is_made and isinstance(self._update, NFTUpdate):
                unscored = GroupScores([], [], [])
                self._update.encode(Group(number, prompt, rollouts, unscored))
        except (MediaError, DataError, ValueError) as error:
            self._log(f"step {step + 1}: {prompt.id!r} is left out: {one_line(error)}")
            return prompt, []
        except RuntimeError as error:
            newest = self.state.newest()
            raise ModelError(
                f"sampling of step {step + 1} failed: {one_line(error)}; the last state is {newest}"
            ) from error
        return prompt, rollouts

    def _report(self, step: int, groups: Sequence[Group]) -> None:
        for group in groups:
            status, reasons = group.scores.status, [*filter(None, group.scores.reasons)]
            if status != "scored" or reasons:
                text = "has equal rewards" if status == "constant" else f"lacks {len(reasons)}"
                detail = f" rewards: {one_line(reasons[0])}" if reasons else ""
                self._log(f"step {step + 1}: the group of {group.prompt.id!r} {text}{detail}")

    def _measure(self, step: int, history: Mapping[str, list[Any]]) -> None:
        """Measure the reward of the held-out prompts after so many steps."""
        is_last = step == self.config.optim.steps
        measured = history["held_out"]
        is_due = step % self.config.held_out_every == 0 or is_last
        if not (self.held_out and is_due) or (measured and measured[-1][0] == step):
            return
        questions: list[list[Sample | None]] = []
        for prompt in self.held_out:
            try:
                samples = self._rollouts.sample_held_out(prompt)
            except (MediaError, ValueError) as error:
                self._log(f"held-out {prompt.id!r} is left out: {one_line(error)}")
                continue
            questions.append([_question(prompt, sample) for sample in samples])
        reward = _figures(self._rewards.score(questions))["reward"] if questions else None
        measured.append([step, reward])


def _figures(scores: Sequence[GroupScores]) -> dict[str, float | None]:
    """Mean reward, mean spread of a group, and counts of failures and skipped groups."""
    known = [[v for v in score.values if v is not None] for score in scores]
    values = [value for group in known for value in group]
    spreads = [float(np.std(group)) for group in known if len(group) > 1]
    statuses = [score.status for score in scores]
    return {
        "reward": float(np.mean(values)) if values else None,
        "spread": float(np.mean(spreads)) if spreads else None,
        "failed": float(sum(v is None for score in scores for v in score.values)),
        "failed_groups": float(statuses.count("failed")),
        "constant_groups": float(statuses.count("constant")),
    }
