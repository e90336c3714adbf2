"""Speed and memory of diffusion DPO against a loop in the published manner.

    python benchmarks/dpo_speed.py [--json] [--steps 12] [--policy tiny_image]

The same pipeline, pairs, adapters, optimiser, batch and one thread, by turns in one run:

    published  a second copy of the network as reference; every step opens the files, and runs the
               autoencoder on both pictures and the text encoder on the prompt
    ours       latents and conditions from files made once, the reference by switching adapters off

Peak memory is that of a process of its own for each way, above what it holds once the pipeline is
loaded. A random Stable Diffusion of --width channels is built where no policy is named, since the
tiny policy's weights are small beside its activations.
"""

import argparse
import copy
import json
import os


os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dpo_pipelines
import numpy as np
import torch

from unified_reward import media
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
from unified_reward.train.latents import Resolution, encode_pairs
from unified_reward.train.loops import NoiseSampler
from unified_reward.train.optim import OptimConfig


WAYS = ("published", "ours")
PAIRS, BATCH = 16, 4


class Published(Denoiser):
    """Network, autoencoder and text encoder, called as published loops call them."""

    def conditions(self, prompts):
        """Conditions of B prompts, by the text encoder itself."""
        embedded = self.pipeline.encode_prompt(
            [*prompts], "cpu", 1, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": embedded[0]}

    def latents(self, pixels):
        """Latents of B images, by the autoencoder itself."""
        vae = self.pipeline.vae
        return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor

    def predict(self, noisy, timestep, condition):
        """Prediction of the network."""
        return self.network("unet", {"sample": noisy, "timestep": timestep, **condition})


class Way:
    """One way of training the same pipeline."""

    def __init__(self, way, policy, pairs, folder):
        self.way, self.pairs = way, pairs
        self.denoiser = {"published": Published, "ours": Denoiser}[way](policy)
        self.denoiser.freeze()
        self.encoded = None
        if way == "ours":
            self.encoded = encode_pairs(pairs, self.denoiser, folder, Resolution(), print)
        reference = copy.deepcopy(self.denoiser.networks) if way == "published" else None
        optim = OptimConfig(steps=1, batch_size=BATCH, accumulate=1, lora_rank=8)
        self.alignment = DPOModel(self.denoiser, DiffusionDPO(optim))
        self.alignment.reference = reference
        self.optimiser = torch.optim.AdamW([*self.alignment.trained.values()], lr=1e-5)
        self.sampler = NoiseSampler(PAIRS, torch.arange(1000), 0)

    def batch(self, rows):
        """Latents and conditions: read, or made anew."""
        if self.encoded is not None:
            return self.encoded.batch(rows, torch.device("cpu"))
        chosen = [self.pairs[i] for i in rows]
        with torch.no_grad():
            sides = [
                self.denoiser.latents(
                    torch.stack(
                        [
                            torch.from_numpy(np.asarray(media.open_image(getattr(one, side))))
                            .movedim(-1, 0)
                            .float()
                            / 127.5
                            - 1
                            for one in chosen
                        ]
                    )
                )
                for side in ("chosen", "rejected")
            ]
            return *sides, self.denoiser.conditions([one.prompt for one in chosen])

    def step(self, number):
        """Train once; the loss."""
        numbers = range(number * BATCH, (number + 1) * BATCH)
        chosen, rejected, condition = self.batch(self.sampler.pair_indices(numbers))
        sample = self.sampler.sample(numbers, chosen.shape[1:])
        loss = self.alignment.loss(chosen, rejected, condition, sample)["loss"]
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())


def load(given):
    """The named policy, or a random Stable Diffusion."""
    return dpo_pipelines.load(given.policy or "stable_diffusion", given.width)


def memory_mib(what):
    """Memory of this process as Linux tells it: now (VmRSS) or at most since the reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith(what)) / 1024


def measure_memory(given):
    """Measure the memory that the steps of one way need above the loaded pipeline."""
    with tempfile.TemporaryDirectory() as name:
        policy = load(given)
        pairs = dpo_pipelines.noise_pairs(policy, PAIRS, Path(name))
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_mib("VmRSS")
        way = Way(given.memory, policy, pairs, Path(name) / "encoded")
        for number in range(3):
            way.step(number)
    print(json.dumps({"mib": memory_mib("VmHWM") - before}))


def measure(given):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = dpo_pipelines.noise_pairs(load(given), PAIRS, folder)
        ways = {way: Way(way, load(given), pairs, folder / "encoded") for way in WAYS}
        seconds = {way: [] for way in WAYS}
        losses = {way: [] for way in WAYS}
        for number in range(given.steps + 1):
            for way, trainer in ways.items():
                begun = time.perf_counter()
                losses[way].append(trainer.step(number))
                seconds[way].append(time.perf_counter() - begun)
    median = {way: float(np.median(times[1:])) for way, times in seconds.items()}
    network = sum(p.numel() for p in ways["ours"].denoiser.network.parameters())
    spread = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
    memory = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--memory", way, "--width", str(given.width)]
        command += ["--policy", given.policy] if given.policy else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory[way] = json.loads(done.stdout.splitlines()[-1])["mib"]
    return {
        "policy": given.policy or f"random, width {given.width}",
        "parameters": network,
        "steps": given.steps,
        "batch": BATCH,
        "seconds_a_step": median,
        "speed_ratio": median["published"] / median["ours"],
        "peak_mib_above_pipeline": memory,
        "largest_difference_of_losses": max(spread),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--policy", default="")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--memory", default="", help="measure the memory of one way")
    given = parser.parse_args()
    if given.memory:
        measure_memory(given)
        return
    report = measure(given)
    if given.json:
        print(json.dumps(report, indent=1))
        return
    for name, value in report.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
