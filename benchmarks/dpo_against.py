"""Speed and memory of diffusion DPO against another checkout of this project.

    git worktree add /tmp/old COMMIT
    python benchmarks/dpo_against.py /tmp/old [--json] [--rounds 7] [--pipelines tiny_image wan]

A process for each code and pipeline, by turns in one run, each with the same pairs, adapters,
optimiser, batch and one thread. Ratios are old : new of medians over rounds, so that above 1 the
new code is faster; they are of CPU time, which other work on the machine disturbs less than the
clock. Peak memory is above what the process holds once the pipeline is loaded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


ROOT = Path(__file__).parents[1]
PACKAGES = ("unified-reward", "unified-reward-lab", "unified-reward-client")
CODES = ("old", "new")
CASES = {
    # Channels, batch, pairs to encode, steps a round.
    "tiny_image": (0, 4, 16, 4),
    "tiny_video": (0, 4, 8, 2),
    "stable_diffusion_3": (512, 2, 6, 1),
    "wan": (512, 2, 4, 1),
}


class Trainer:
    """DPO of a policy, by whichever code is on the path."""

    def __init__(self, name, folder):
        import dpo_pipelines
        import torch

        from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel, NoiseSampler
        from unified_reward.train.latents import Resolution, encode_pairs
        from unified_reward.train.optim import OptimConfig

        try:
            from unified_reward.train.edit_denoisers import denoiser_of as wrap
        except ImportError:
            from unified_reward.train import denoisers

            wrap = denoisers.Denoiser

        width, self.batch, n_pairs, self.steps = CASES[name]
        policy = dpo_pipelines.load(name, width)
        self.pairs = dpo_pipelines.noise_pairs(policy, n_pairs, folder)
        self.folder, self.number, self.encodings = folder, 0, 0
        self.before = reset_peak()
        self.denoiser = wrap(policy)
        self.denoiser.freeze()
        self._encode = lambda pairs, out: encode_pairs(
            pairs, self.denoiser, out, Resolution(), log=print_error
        )
        self._begin = lambda: DPOModel(
            self.denoiser,
            DiffusionDPO(OptimConfig(steps=1, batch_size=self.batch, accumulate=1, lora_rank=8)),
        )
        self._sampler = NoiseSampler(n_pairs, torch.arange(1000), 0)
        self._adamw = torch.optim.AdamW
        self._device = torch.device("cpu")

    def first(self):
        """Encode one pair, with all that is found out once."""
        self._encode(self.pairs[:1], self.folder / "first")

    def encode(self):
        """Encode all pairs."""
        self.encodings += 1
        self.encoded = self._encode(self.pairs, self.folder / str(self.encodings))

    def begin(self):
        """Add adapters."""
        self.model = self._begin()
        self.optimiser = self._adamw([*self.model.trained.values()], lr=1e-4)

    def train(self):
        """Train some steps; their losses."""
        losses = []
        for _ in range(self.steps):
            numbers = range(self.number * self.batch, (self.number + 1) * self.batch)
            self.number += 1
            indices = self._sampler.pair_indices(numbers)
            chosen, rejected, condition = self.encoded.batch(indices, self._device)
            sample = self._sampler.sample(numbers, chosen.shape[1:])
            loss = self.model.loss(chosen, rejected, condition, sample)["loss"]
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            losses.append(float(loss.detach()))
        return losses


def print_error(text):
    print(text, file=sys.stderr)


def memory_mib(what):
    """Memory of this process as Linux has it: now (VmRSS) or at most since the reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def work(name):
    """Do what stdin says, line by line, and answer with time and peak memory."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(name, Path(folder))
        parameters = sum(p.numel() for p in trainer.denoiser.network.parameters())
        print(json.dumps({"parameters": parameters}), file=answers, flush=True)
        for line in sys.stdin:
            reset_peak()
            clock, cpu = time.perf_counter(), time.process_time()
            result = getattr(trainer, line.strip())()
            answer = {"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
            answer |= {"mib": memory_mib("VmHWM") - trainer.before, "result": result}
            print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A process that runs the code of one checkout."""

    def __init__(self, root, name):
        paths = [str(root / "packages" / package / "src") for package in PACKAGES]
        settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", name],
            env=os.environ | settings | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.parameters = self._answer()["parameters"]

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def __call__(self, command):
        """Let it do a command; time, memory and result."""
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def measure(name, old, rounds, starts):
    """Figures of one pipeline by both codes."""
    runs = [measure_once(name, old, rounds) for _ in range(starts)]
    _, batch, n_pairs, steps = CASES[name]
    report = {"pipeline": name, "parameters": runs[0][0], "batch": batch}
    report |= {"rounds": rounds, "starts": starts}
    losses = [
        [loss for answer in runs[0][1][code]["train"] for loss in answer["result"]]
        for code in CODES
    ]
    apart = [abs(a - b) for a, b in zip(*losses, strict=True)]
    report["differences_of_losses"] = {"first": apart[0], "largest": max(apart)}
    for command, n in (("train", steps), ("encode", n_pairs), ("first", 1)):
        pooled = [[a for _, run in runs for a in run[code][command]] for code in CODES]
        report[command] = compare(pooled, n)
    return report


def measure_once(name, old, rounds):
    """Number of parameters, and answers of both codes, each in a process of its own."""
    workers = {code: Worker({"old": old, "new": ROOT}[code], name) for code in CODES}
    answers = {code: {"train": [], "encode": []} for code in CODES}
    for code, worker in workers.items():
        answers[code]["first"] = [worker("first")]
    for command in ("encode", "train"):
        for worker in workers.values():
            worker("begin" if command == "train" else "encode")
            worker(command)
        for number in range(rounds if command == "train" else 2):
            # The order turns, so that neither is always second.
            for code in CODES[:: 1 if number % 2 else -1]:
                answers[code][command].append(workers[code](command))
    parameters = workers["new"].parameters
    for worker in workers.values():
        worker.close()
    return parameters, answers


def compare(answers, n):
    """Seconds for each of n steps or pairs, old : new, and peak memory."""
    figures = {
        unit: {
            code: median(a[unit] for a in each) / n
            for code, each in zip(CODES, answers, strict=True)
        }
        for unit in ("cpu", "clock")
    }
    figures |= {f"{unit}_ratio": each["old"] / each["new"] for unit, each in figures.items()}
    rounds = [old["cpu"] / new["cpu"] for old, new in zip(*answers, strict=True)]
    figures["cpu_ratio_of_rounds"] = rounds
    figures["peak_mib"] = {
        code: max(a["mib"] for a in each) for code, each in zip(CODES, answers, strict=True)
    }
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", nargs="?", type=Path, help="folder of the other checkout")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=2, help="processes of each code, in turn")
    parser.add_argument("--pipelines", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--work", default="", help="be the process of one code")
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    reports = [measure(name, given.old, given.rounds, given.starts) for name in given.pipelines]
    if given.json:
        print(json.dumps(reports, indent=1))
        return
    for report in reports:
        for name, value in report.items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
