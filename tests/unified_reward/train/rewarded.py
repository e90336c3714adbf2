"""A tiny pipeline of pictures that is trained by the brightness of its samples."""

import json

import numpy as np

from tests.unified_reward.policies import pipelines
from unified_reward.policies import Denoising, write_defaults
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.optim import OptimConfig


PROMPTS = ("a red star", "two blue discs", "a green square", "a circle", "a cat")
SIDE_PX = 16


class KilledError(BaseException):
    """Stands for the end of a process."""


def pictures(folder):
    """A random policy that samples in four steps."""
    pipelines.pictures(folder)
    write_defaults(Denoising(steps=4, guidance=2.0, height=SIDE_PX, width=SIDE_PX), folder)
    return folder


def written(path, texts=PROMPTS, task="image_generation"):
    """A file of prompts, named ``p0`` onwards."""
    rows = [{"id": f"p{i}", "task": task, "prompt": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def config(steps=2, *, optim=None, **options):
    defaults = {"batch_size": 4, "accumulate": 1, "lr": 3e-3, "lora_rank": 4, "warmup": 0.0}
    settings = {"group": 4, "prompts_per_step": 2, **options}
    return DiffusionGRPO(OptimConfig(steps, **(defaults | (optim or {}))), **settings)


def brightness(samples):
    return [float(np.mean(sample.candidates[0].source)) / 255 for sample in samples]


def train(source, prompts, out, options, reward=brightness, **more):
    """The report, and the logged lines."""
    log = []
    given = {"reward": reward}
    return train_pipeline(source, prompts, given, options, out, log.append, **more), log
