"""Speed of an update of GRPO against a training loop in the published manner.

    python benchmarks/grpo_against.py [--json] [--rounds 5] [--policies tiny_image tiny_video]

The published manner (DDPO, Flow-GRPO, DanceGRPO): a sampling loop of its own for one model, every
step stochastic and trained except the last, rewards after all sampling, one group after the other.
Here it uses the same adapters, step rule, optimiser, prompts and judge as the library, with the
library's default window. Before it is timed, its samples and gradients are compared with those of
the library for a window of all steps. Ways by turns in one run; ratios are published : library of
medians over rounds of processor time.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from unified_reward import policies
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Example, Image, Sample, Task, Video
from unified_reward.judges.registry import open_judge
from unified_reward.policies.observation import networks
from unified_reward.policies.recorded import StochasticSampler
from unified_reward.policies.step_rules import Level, StepRule, log_prob
from unified_reward.policies.step_rules import step as step_of
from unified_reward.train.group_rewards import GroupScores
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.optim import OptimConfig
from unified_reward.train.policy_losses import clip_advantages, policy_loss, ratio
from unified_reward.train.policy_updates import AdaptedNetworks, Group, GRPOUpdate
from unified_reward_lab.examples import write_prompts


CLIP = 1e-4
TASKS = {"tiny_image": Task.IMAGE_GENERATION, "tiny_video": Task.VIDEO_GENERATION}
JUDGE = "tiny_judge"
GROUP, GROUPS, UPDATES = 8, 4, 4
"""Samples of a group, groups of an update, and timed updates of a round."""
OPTIM = OptimConfig(steps=100, batch_size=GROUP, accumulate=1, lr=3e-4, lora_rank=16)
RULE = StepRule("ddim", 1.0)


class Calls:
    """Forward passes of a network by the sample; a pass with gradients counts three times."""

    def __init__(self, network):
        self.passes = 0
        network.register_forward_hook(self._count)

    def _count(self, network, inputs, output):
        del network, inputs
        self.passes += len(output[0]) * (3 if output[0].requires_grad else 1)


class PublishedLoop(ABC):
    """GRPO of one model by a sampling loop of its own."""

    kind: str
    """Prediction type of the network."""

    def __init__(self, prompts, judge):
        self.policy = load(self.name)
        self.pipeline = self.policy.pipeline
        self.model = AdaptedNetworks(self.policy, OPTIM)
        (self.network,) = self.model.parts.values()
        self.calls = Calls(self.network)
        self.weights = [*self.model.trained.values()]
        self.optimiser = torch.optim.AdamW(self.weights, OPTIM.lr)
        self.prompts, self.judge, self.number = prompts, judge, 0

    @abstractmethod
    def medium(self, pixels):
        """An image or a video."""

    @abstractmethod
    def encode(self, prompt):
        """Embed a prompt."""

    @abstractmethod
    def levels(self):
        """Noise levels before each step and after the last."""

    @abstractmethod
    def predict(self, x, timestep, embeds):
        """Output of the network."""

    @abstractmethod
    def latent_shape(self):
        """Shape of the latents of a sample."""

    @abstractmethod
    def decode(self, x):
        """Pixels of latents, in [0, 1]."""

    @torch.no_grad()
    def sample(self, prompt, seeds, noise_seeds):
        """Sample a group: its media and last latents, and what its steps are trained on."""
        embeds = self.encode(prompt).repeat(len(seeds), 1, 1)
        shape = self.latent_shape()
        first, noises = (
            [torch.Generator().manual_seed(seed) for seed in each] for each in (seeds, noise_seeds)
        )
        x = torch.stack([torch.randn(shape, generator=each) for each in first])
        self.pipeline.scheduler.set_timesteps(self.policy.options.steps)
        timesteps, levels = self.pipeline.scheduler.timesteps, self.levels()
        steps = []
        for i, timestep in enumerate(timesteps):
            prediction = self.predict(x, timestep, embeds)
            mean, std = step_of(RULE, self.kind, x, prediction, *levels[i : i + 2])
            following = mean
            if i + 1 < len(timesteps):
                noise = torch.stack([torch.randn(shape, generator=each) for each in noises])
                following = mean + std * noise
                old = log_prob(following, mean, std)
                steps.append((x, following, timestep, levels[i : i + 2], std, old))
            x = following
        pixels = (np.clip(self.decode(x), 0, 1) * 255).round().astype(np.uint8)
        return [self.medium(each) for each in pixels], x, embeds, steps

    def backward(self, embeds, steps, advantages, total):
        """Add the gradients of the steps of a group, which is one of ``total`` samples."""
        for x, following, timestep, levels, std, old in steps:
            prediction = self.predict(x, timestep, embeds)
            mean = step_of(RULE, self.kind, x, prediction, *levels).mean
            terms = policy_loss(ratio(log_prob(following, mean, std), old), advantages, CLIP)
            (terms.loss * (len(x) / total)).backward()

    def update(self):
        """Sample, score and train."""
        groups, questions = [], []
        for _ in range(GROUPS):
            prompt = self.prompts[self.number % len(self.prompts)]
            seeds = policies.seeds(prompt.id, GROUP, self.number)
            self.number += 1
            media, _, *trained = self.sample(prompt.prompt, seeds, seeds)
            groups.append(trained)
            questions += [Sample(prompt.task, prompt.prompt, (each,)) for each in media]
        scores = np.array(ask(self.judge, questions)).reshape(GROUPS, GROUP)
        advantages = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
        total = GROUPS * GROUP * len(groups[0][1])
        for (embeds, steps), advantage in zip(groups, advantages, strict=True):
            self.backward(embeds, steps, clip_advantages(advantage.tolist()), total)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


class ImageLoop(PublishedLoop):
    """Stable Diffusion."""

    name, kind = "tiny_image", "v_prediction"

    def medium(self, pixels):
        """See `PublishedLoop`."""
        return Image(pixels, "HWC")

    def encode(self, prompt):
        """See `PublishedLoop`."""
        device = torch.device("cpu")
        return self.pipeline.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)[0]

    def levels(self):
        """See `PublishedLoop`."""
        scheduler = self.pipeline.scheduler
        kept = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]
        return [Level(each**0.5, (1 - each) ** 0.5) for each in kept]

    def predict(self, x, timestep, embeds):
        """See `PublishedLoop`."""
        return self.network(x, timestep, embeds, return_dict=False)[0]

    def latent_shape(self):
        """See `PublishedLoop`."""
        config = self.network.config
        return (config.in_channels, config.sample_size, config.sample_size)

    def decode(self, x):
        """See `PublishedLoop`."""
        vae = self.pipeline.vae
        images = vae.decode(x / vae.config.scaling_factor, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(images, output_type="np")


class VideoLoop(PublishedLoop):
    """Wan."""

    name, kind = "tiny_video", "flow"

    def medium(self, frames):
        """See `PublishedLoop`."""
        return Video(frames, fps=self.policy.options.fps, layout="THWC")

    def encode(self, prompt):
        """See `PublishedLoop`."""
        options = {"max_sequence_length": self.policy.options.prompt_tokens, "device": "cpu"}
        encode = self.pipeline.encode_prompt
        return encode(prompt, do_classifier_free_guidance=False, **options)[0]

    def levels(self):
        """See `PublishedLoop`."""
        return [Level(1 - sigma, sigma) for sigma in self.pipeline.scheduler.sigmas.tolist()]

    def predict(self, x, timestep, embeds):
        """See `PublishedLoop`."""
        return self.network(x, timestep.expand(len(x)), embeds, return_dict=False)[0]

    def latent_shape(self):
        """See `PublishedLoop`."""
        options, pipeline = self.policy.options, self.pipeline
        frames = -(-(options.frames - 1) // pipeline.vae_scale_factor_temporal) + 1
        sides = [
            each // pipeline.vae_scale_factor_spatial for each in (options.height, options.width)
        ]
        return (self.network.config.in_channels, frames, *sides)

    def decode(self, x):
        """See `PublishedLoop`."""
        vae, shape = self.pipeline.vae, (1, -1, 1, 1, 1)
        mean, std = (
            torch.tensor(getattr(vae.config, f"latents_{each}")) for each in ("mean", "std")
        )
        frames = vae.decode(x * std.view(shape) + mean.view(shape), return_dict=False)[0]
        made = self.pipeline.video_processor.postprocess_video(frames, output_type="np")
        return made[:, : self.policy.options.frames]


LOOPS = {loop.name: loop for loop in (ImageLoop, VideoLoop)}


def ask(judge, questions):
    """Scores of questions; all must be readable."""
    return [verdict.score.value for verdict in judge.ask(questions)]


def load(name):
    return policies.load(
        checkpoint_path(name), device="cpu", dtype="float32", batch_size=OPTIM.batch_size
    )


def read_prompts(name, folder):
    """Prompts of the training split, each once, and their file."""
    file = write_prompts(folder, task=TASKS[name], n=200, seed=0, split="train")
    rows = {json.loads(line)["prompt"]: line for line in file.read_text().splitlines()}
    file.write_text("\n".join(rows.values()) + "\n")
    made = [json.loads(line) for line in rows.values()]
    return file, [Example(TASKS[name], row["prompt"], (), id=row["id"]) for row in made]


def compare(name, prompts, judge):
    """Differences between the samples and gradients of both for a window of all steps."""
    published, policy = LOOPS[name](prompts, judge), load(name)
    model = AdaptedNetworks(policy, OPTIM)
    for weights in (published.model.trained, model.trained):
        torch.manual_seed(1)
        for weight in weights.values():
            weight.data = 0.02 * torch.randn_like(weight)
    seeds = policies.seeds("compared", GROUP, 0)
    window = range(policy.options.steps - 1)
    media, latents, *trained = published.sample(prompts[0].prompt, seeds, seeds)
    rollout = StochasticSampler(policy, RULE.name, RULE.strength).sample(
        prompts[0].prompt, (), seeds, window, seeds
    )
    advantages = np.random.default_rng(0).normal(size=GROUP)
    published.backward(*trained, clip_advantages(advantages.tolist()), GROUP * len(window))
    scores = GroupScores([*map(float, advantages)], [0.0] * GROUP, [""] * GROUP)
    update = GRPOUpdate(model, Accelerator(cpu=True), clip=CLIP, beta=0.0, kind="plain")
    update.backward([Group(0, prompts[0], [rollout], scores)], 0)
    gradients = [
        torch.cat([weight.grad.flatten() for weight in each.trained.values()])
        for each in (published.model, model)
    ]
    pairs = zip(media, rollout.samples, strict=True)
    levels = [np.abs(a.source.astype(int) - b.source.astype(int)).max() for a, b in pairs]
    return {
        "latents": relative(latents, rollout.latents),
        "gradients": relative(*gradients),
        "grey_levels": int(max(levels)),
    }


def relative(a, b):
    return float((a - b).norm() / b.norm())


def time_library(name, file, judge, folder):
    """Processor seconds and passes of each update, from one asking for rewards to the next."""
    marks, calls, loaded = [], [], policies.load

    def load_counted(*args, **kwargs):
        policy = loaded(*args, **kwargs)
        calls.extend(map(Calls, networks(policy.pipeline).values()))
        return policy

    def reward(questions):
        marks.append((time.process_time(), calls[0].passes))
        return ask(judge, questions)

    config = DiffusionGRPO(
        replace(OPTIM, steps=UPDATES + 2), group=GROUP, prompts_per_step=GROUPS, clip=CLIP
    )
    policies.load = load_counted
    try:
        train_pipeline(checkpoint_path(name), file, {"judge": reward}, config, folder)
    finally:
        policies.load = loaded
    pairs = [*itertools.pairwise(marks[1:])]
    return [b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs]


def time_published(loop):
    """Processor seconds and passes of each update."""
    seconds, passes = [], []
    for _ in range(UPDATES):
        start, before = time.process_time(), loop.calls.passes
        loop.update()
        seconds.append(time.process_time() - start)
        passes.append(loop.calls.passes - before)
    return seconds, passes


def measure(name, rounds, folder):
    file, prompts = read_prompts(name, folder)
    judge = open_judge(JUDGE)
    report = {"policy": name, "rounds": rounds, "differences": compare(name, prompts, judge)}
    loop = LOOPS[name](prompts, judge)
    loop.update()
    times, passes = ({"published": [], "library": []} for _ in range(2))
    for number in range(rounds):
        ways = ("published", "library")
        for way in ways[:: 1 if number % 2 else -1]:
            made = (
                time_published(loop)
                if way == "published"
                else time_library(name, file, judge, folder / f"run-{number}")
            )
            times[way].append(statistics.median(made[0]))
            passes[way] += made[1]
    pairs = zip(times["published"], times["library"], strict=True)
    report["ratio_of_rounds"] = [a / b for a, b in pairs]
    for unit, each in (("cpu_s", times), ("passes", passes)):
        medians = {way: statistics.median(values) for way, values in each.items()}
        report[unit] = medians
        report[f"{unit}_ratio"] = medians["published"] / medians["library"]
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policies", nargs="+", choices=TASKS, default=[*TASKS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        reports = [measure(n, args.rounds, Path(folder) / n) for n in args.policies]
    if args.json:
        print(json.dumps(reports, indent=1, allow_nan=False))
        return
    for report in reports:
        print(report)


if __name__ == "__main__":
    main()
