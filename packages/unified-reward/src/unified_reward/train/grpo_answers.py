"""GRPO of a vision-language policy by the rewards of judges: files of prompts, and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from unified_reward import policies
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example, Sample
from unified_reward.io.config import as_data
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.group_rewards import GroupRewards, GroupScores, read_prompts
from unified_reward.train.grpo_page import RunFacts, write_run_page
from unified_reward.train.grpo_vlm import (
    HELD_OUT_ANSWERS,
    VLMGRPO,
    Rewards,
    SampledAnswer,
    learn_from_rewards,
)
from unified_reward.train.precision import load_dtype


class Prompts:
    """Prompts of rows as requests; media are opened whenever one is indexed."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Request:
        """The user turn that the policy answers."""
        example = self._examples[index]
        return build_request(example.prompt, example.context)

    def name(self, index: int) -> str:
        """Id of a row."""
        return self._examples[index].id


class AnswerRewards:
    """Rewards of answers by judges, in groups of the answers to a prompt."""

    def __init__(
        self,
        examples: Sequence[Example],
        rewards: GroupRewards,
        others: GroupRewards | None,
        config: VLMGRPO,
        log: Callable[[str], None],
    ) -> None:
        """Set up; others are measured on held-out prompts alone."""
        self._examples, self._rewards, self._others = examples, rewards, others
        self._log, self._size = log, config.group
        self._in_group = config.scale_rewards == "group"

    def __call__(self, answers: Sequence[SampledAnswer]) -> Rewards:
        """Z-scores in the group where rewards are scaled so, otherwise weighted sums.

        Figures are the mean ``reward``, the mean ``spread`` of a group, the mean of each reward,
        and the ``lost_comparisons`` of win rates.
        """
        # A prompt may end one pass over the data and begin the next, as two groups.
        size = HELD_OUT_ANSWERS if answers[0].is_held_out else self._size
        groups = [answers[i : i + size] for i in range(0, len(answers), size)]
        samples = [[*map(self._sample, group)] for group in groups]
        scores = self._rewards.score(samples)
        for group, score in zip(groups, scores, strict=True):
            if reasons := [*filter(None, score.reasons)]:
                name = self._examples[group[0].row].id
                self._log(f"{len(reasons)} answers to {name!r} lack rewards: {reasons[0]}")
        known = [[v for v in score.values if v is not None] for score in scores]
        figures = _means(scores)
        if flat := [value for group in known for value in group]:
            figures["reward"] = float(np.mean(flat))
            figures["spread"] = float(np.mean([np.std(group) for group in known if group]))
        if self._others and answers[0].is_held_out:
            figures |= _means(self._others.score(samples))
        values = [score.advantages if self._in_group else score.values for score in scores]
        return Rewards([value for group in values for value in group], figures)

    def _sample(self, answer: SampledAnswer) -> Sample:
        example = self._examples[answer.row]
        return Sample(
            *(example.task, example.prompt, (answer.text,)),
            *(example.context, example.criteria, example.id),
        )


def _means(scores: Sequence[GroupScores]) -> dict[str, float]:
    """Mean of each reward, and lost comparisons."""
    found = {name: [v for s in scores for v in s.by_reward[name]] for name in scores[0].by_reward}
    known = {name: [v for v in values if v is not None] for name, values in found.items()}
    means = {f"rewards/{name}": float(np.mean(values)) for name, values in known.items() if values}
    n_lost = sum(score.lost_comparisons for score in scores)
    # TRL takes the mean over processes.
    return means | {"lost_comparisons": float(n_lost * PartialState().num_processes)}


def train_vlm(
    policy: str | Path,
    prompts: Path,
    rewards: GroupRewards,
    config: VLMGRPO,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
    held_out_rewards: GroupRewards | None = None,
) -> dict[str, Any]:
    """Train a vision-language policy by the rewards of its answers.

    Args:
        policy: Folder or hub id of the model.
        prompts: A file of rows with questions about images or videos.
        rewards: Judges or functions that score answers.
        config: Settings.
        out: Folder of ``policy/``, the new policy, and more; see `learn_from_rewards`.
        log: Called with the reason for each row or reward that is left out.
        held_out_rewards: Rewards that are measured on the held-out prompts, and never trained.

    Returns:
        ``rows`` by status, ``dtype`` of frozen weights, and as `learn_from_rewards`; ``reward`` and
        ``spread`` are of the rewards before any scaling.

    Raises:
        ConfigError: Options, policy and rewards do not fit.
        DataError: No prompt can be used.
        ModelError: The policy cannot be loaded or trained, or there are no rewards any more.
        ServerError: A reward server does not answer; the run can be resumed.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    dtype = load_dtype(config.dtype, config.optim.lora_rank)
    model = policies.load(policy, device=str(state.device), dtype=dtype)
    if not isinstance(model, VLMPolicy):
        raise ConfigError(f"{policy} is a diffusers pipeline, not a vision-language model")
    log = log if state.is_main_process else _ignore
    examples, rows = read_prompts(prompts, model.tasks, log)
    for each in filter(None, (rewards, held_out_rewards)):
        each.check_tasks({example.task for example in examples})
    # Z-scores are not divided by a deviation again.
    scaled = "none" if config.scale_rewards == "group" else config.scale_rewards
    report = learn_from_rewards(
        model.vlm,
        Prompts(examples),
        AnswerRewards(examples, rewards, held_out_rewards, config, log),
        replace(config, scale_rewards=scaled),
        out,
        log,
    )
    if state.is_main_process:
        policies.write_defaults(model.options, out / "policy")
        n, held_out = report["prompts"], config.held_out
        write_run_page(out, RunFacts(str(policy), rewards.names, as_data(config), n, held_out), log)
    left_out = report["left_out"] + rows.get("left_out", 0)
    return {"rows": rows, "dtype": dtype, **report, "left_out": left_out}


def _ignore(_: str) -> None: ...
