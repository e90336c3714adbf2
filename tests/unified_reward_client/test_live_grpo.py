"""TRL trains the tiny VLM with rewards of a server, of which some fail."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.unified_reward.serve.running import serving
from tests.unified_reward_client.letters import Letters
from unified_reward import media
from unified_reward.judges.registry import checkpoint_path
from unified_reward_client import RewardClient, RewardSet, RewardTerm, trl_reward


GREYS = (40, 80, 120, 160)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps of four groups of four; every fifth answer is not scored."""
    count = itertools.count(1)
    letters = Letters(fails=lambda _: next(count) % 5 == 0)
    images = [PIL.Image.fromarray(np.full((32, 32, 3), grey, np.uint8)) for grey in GREYS]
    prompt = [{"role": "user", "content": "which colour is the circle?"}]
    data = Dataset.from_list([{"prompt": prompt, "image": image} for image in images])
    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("grpo")),
        max_steps=2,
        num_generations=4,
        per_device_train_batch_size=16,
        max_completion_length=8,
        learning_rate=1e-3,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    with (
        serving({"letters": letters, "again": Letters(fails=lambda _: False)}, verdict_cache=0) as (
            url
        ),
        RewardClient(url) as client,
    ):
        terms = [RewardTerm("letters"), RewardTerm("again", weight=0.5)]
        reward = trl_reward(client, RewardSet(terms), num_generations=4)
        trainer = GRPOTrainer(
            str(checkpoint_path("tiny_base")), reward_funcs=reward, args=args, train_dataset=data
        )
        trainer.train()
    return SimpleNamespace(trainer=trainer, letters=letters)


@pytest.mark.slow
def test_rows_that_failed_have_no_advantage_and_the_others_are_centred_without_them(run):
    rewards = np.array(run.trainer._logs["rewards"]["unified_reward"])
    advantages = np.array(run.trainer._logs["advantages"])
    lost = np.isnan(rewards)
    assert len(rewards) >= 16
    assert 0 < lost.sum() < len(rewards)
    assert (advantages[lost] == 0).all()
    for own, without in zip(advantages.reshape(-1, 4), lost.reshape(-1, 4), strict=True):
        assert own[~without].sum() == pytest.approx(0, abs=1e-3)
    assert (advantages != 0).any()
    assert np.isfinite(advantages).all()


@pytest.mark.slow
def test_the_loss_is_finite_and_the_log_has_the_figures(run):
    steps = [entry for entry in run.trainer.state.log_history if "loss" in entry]
    assert len(steps) == 2
    assert all(math.isfinite(entry["loss"]) for entry in steps)
    assert all(entry["unified_reward/letters/failed"] > 0 for entry in steps)
    assert all(entry["unified_reward/again/failed"] == 0 for entry in steps)


@pytest.mark.slow
def test_the_judge_sees_the_image_and_the_question_of_the_prompt(run):
    seen = {np.asarray(media.open_image(each.context[0])).mean() for each in run.letters.samples}
    assert seen == set(GREYS)
    assert {each.prompt for each in run.letters.samples} == {"which colour is the circle?"}
    assert all(isinstance(each.candidates[0], str) for each in run.letters.samples)
