"""Pictures of four policies of known order, with what the oracle and a judge say of them; kept.

The policies are the tiny image policy, the same after training from a judge's rewards, and copies
of its pictures that are blurred or noisy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Preferred, Scored, Verdict
from unified_reward.evaluate.outputs import Comparison, model_pairs
from unified_reward.io.atomic import replacing, write_json
from unified_reward.io.run_config import check_run_config
from unified_reward.io.text import read_json
from unified_reward.judges.registry import open_judge
from unified_reward_lab.experiments.reinforcement_exam import sample_each
from unified_reward_lab.microworld import PolicyPrompt, policy_prompt


BETTER, BEFORE, BLURRED, NOISY = MODELS = ["better", "before", "blurred", "noisy"]
"""Policies in the order that is known, the best first."""
ORACLE, JUDGE = "oracle", "judge"
"""Rewards of the pool."""
Pair = tuple[str, str]
_TASK = Task.IMAGE_GENERATION


@dataclass(frozen=True)
class PoolConfig:
    """Prompts, policies and judge."""

    n: int = 5000
    """Number of prompts, each of another caption, of the held-out split."""
    seed: int = 20261201
    """Seed of prompts and pictures."""
    before: str = "tiny_image"
    better: str = "runs/reinforcement/nft-large/0/policy"
    """The policy after training: arm ``nft-large`` of the experiment ``reinforcement``."""
    blur: float = 0.7
    """Radius (standard deviation) of the Gaussian blur, in pixels."""
    noise: float = 20.0
    """Standard deviation of the Gaussian noise, in steps of 255."""
    judge: str = "tiny_judge"
    """Reference of the judge of all pictures."""

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"a pool has at least two prompts, given {self.n}")


@dataclass(frozen=True)
class Reward:
    """Values that a reward gives the pictures of a pool."""

    scores: Mapping[str, Mapping[str, float]]
    """By model and prompt."""
    comparisons: Mapping[Pair, Mapping[str, Comparison]]
    """By pair of models and prompt; by the oracle those that follow from its scores."""

    def compared(self, prompts: Sequence[str]) -> list[Comparison]:
        """Comparisons of all pairs for some prompts."""
        return [each[prompt] for each in self.comparisons.values() for prompt in prompts]


@dataclass(frozen=True)
class Pool:
    """A picture of each policy for each prompt, in values."""

    prompts: list[str]
    """Ids."""
    rewards: dict[str, Reward]
    """The oracle, whose score is 0 where it reads nothing, and the judge, who compared all pairs of
    policies in both orders."""


def read_pool(config: PoolConfig, folder: Path) -> Pool:
    """Read the pool of a folder; what is missing is made."""
    check_run_config(folder / f"{BEFORE}.npz", asdict(config), {})
    prompts = distinct_prompts(config.n, config.seed)
    ids = [prompt.id for prompt in prompts]
    file = folder / "values.json"
    if not file.exists():
        pictures = _pictures(config, prompts, folder)
        write_json(file, _values(open_judge(config.judge), prompts, pictures))
    kept: dict[str, Any] = read_json(file)
    scores = {
        name: {model: dict(zip(ids, kept[name][model], strict=True)) for model in MODELS}
        for name in (ORACLE, JUDGE)
    }
    by_oracle = {
        (a, b): {
            prompt: Comparison(prompt, a, b, (np.sign(x - scores[ORACLE][b][prompt]) + 1) / 2)
            for prompt, x in scores[ORACLE][a].items()
        }
        for a, b in model_pairs(MODELS)
    }
    by_judge = {
        (a, b): {
            prompt: Comparison(prompt, a, b, (first + second) / 2, bool(same), (first, second))
            for prompt, (first, second, same) in zip(
                ids, kept["comparisons"][f"{a}|{b}"], strict=True
            )
        }
        for a, b in model_pairs(MODELS)
    }
    rewards = {
        ORACLE: Reward(scores[ORACLE], by_oracle),
        JUDGE: Reward(scores[JUDGE], by_judge),
    }
    return Pool(ids, rewards)


def distinct_prompts(n: int, seed: int) -> list[PolicyPrompt]:
    """Return the first ``n`` held-out prompts of a seed with different captions."""
    found: dict[str, PolicyPrompt] = {}
    index = 0
    while len(found) < n:
        prompt = policy_prompt(_TASK, split="test", seed=seed, index=index)
        found.setdefault(prompt.prompt, prompt)
        index += 1
    return [*found.values()]


def _pictures(
    config: PoolConfig, prompts: Sequence[PolicyPrompt], folder: Path
) -> dict[str, np.ndarray[Any, Any]]:
    made: dict[str, Any] = {}
    for model, source in ((BEFORE, config.before), (BETTER, config.better)):
        file = folder / f"{model}.npz"
        if not file.exists():
            pixels = sample_each(checkpoint_path(source), prompts, config.seed)
            with replacing(file) as handle:
                np.savez_compressed(handle, pixels=pixels)
        with np.load(file) as saved:
            made[model] = saved["pixels"]
    return made | {
        BLURRED: np.stack([blurred(each, config.blur) for each in made[BEFORE]]),
        NOISY: noisy(made[BEFORE], config.noise, np.random.default_rng(config.seed)),
    }


def blurred(pixels: np.ndarray[Any, Any], radius: float) -> np.ndarray[Any, Any]:
    """Blur a picture of bytes, shape (H, W, 3), by a Gaussian of a radius in pixels."""
    return np.asarray(PIL.Image.fromarray(pixels).filter(PIL.ImageFilter.GaussianBlur(radius)))


def noisy(
    pixels: np.ndarray[Any, Any], sigma: float, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Add Gaussian noise to each value of pictures of bytes; ``sigma`` in steps of 255."""
    # By picture, as float64 of a whole pool takes gigabytes.
    each = ((one + rng.normal(0, sigma, one.shape)).clip(0, 255).round() for one in pixels)
    return np.stack([one.astype(np.uint8) for one in each])


def _values(
    judge: BaseJudge,
    prompts: Sequence[PolicyPrompt],
    pictures: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, Any]:
    def ask(*models: str) -> list[Verdict]:
        media = zip(*(pictures[model] for model in models), strict=True)
        samples = (
            Sample(
                _TASK, prompt.prompt, tuple(Image(pixels, "HWC") for pixels in each), id=prompt.id
            )
            for prompt, each in zip(prompts, media, strict=True)
        )
        return judge.ask([*samples])

    def truth(model: str) -> list[float]:
        media = (Image(one, "HWC") for one in pictures[model])
        return [p.oracle_score(m) or 0.0 for p, m in zip(prompts, media, strict=True)]

    return {
        "oracle": {model: truth(model) for model in MODELS},
        "judge": {model: [_score(verdict) for verdict in ask(model)] for model in MODELS},
        "comparisons": {
            f"{a}|{b}": [_orders(verdict) for verdict in ask(a, b)] for a, b in model_pairs(MODELS)
        },
    }


def _score(verdict: Verdict) -> float:
    if not isinstance(verdict, Scored) or verdict.score is None:
        raise ConfigError(f"the judge gave no score: {verdict}")
    return verdict.score.value


def _orders(verdict: Verdict) -> list[float]:
    """Probability of the first candidate in each order, then 1 if both named one winner."""
    if not isinstance(verdict, Preferred):
        raise ConfigError(f"the judge did not compare: {verdict}")
    orders = verdict.orders or (verdict, verdict)
    return [*(order.probability for order in orders), float(verdict.consistent is not False)]
