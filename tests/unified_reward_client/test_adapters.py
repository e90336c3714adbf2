"""Adapters: called as each trainer calls them, against a server."""

import asyncio
from dataclasses import dataclass

import numpy as np
import PIL.Image
import pytest
import torch

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.running import serving
from tests.unified_reward_client.letters import Letters
from unified_reward.core.samples import Task, Video
from unified_reward_client import (
    RewardClient,
    RewardError,
    RewardSet,
    RewardTerm,
    flow_factory_reward,
    flow_grpo_reward,
    trl_reward,
    verl_omni_compute_score,
)


LETTERS = Letters()
BRIGHT = RewardTerm("brightness", scale="raw")


@pytest.fixture(scope="module")
def client():
    judges = {"brightness": Brightness(), "letters": LETTERS}
    with serving(judges, verdict_cache=0) as url, RewardClient(url) as it:
        yield it


def grey(*values):
    """Images of 4x5 pixels as NHWC, of these grey values."""
    return np.stack([np.full((4, 5, 3), value, np.uint8) for value in values])


def numbers(**options):
    return RewardSet([BRIGHT], **({"aggregate": "sum", "on_failure": "raise"} | options))


def test_trl_gets_none_for_the_row_of_which_a_reward_failed_and_its_log_the_figures(client):
    LETTERS.samples.clear()
    picture = PIL.Image.fromarray(grey(9)[0])
    prompts = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
        for content in ["how many?", [{"type": "image"}, {"type": "text", "text": "what?"}]]
    ]
    completions = [
        [{"role": "assistant", "content": text}] for text in ("a", "abc", "ab", "broken")
    ]
    metrics, extra = {}, {}
    reward = trl_reward(client, RewardSet([RewardTerm("letters")]), num_generations=2)
    values = asyncio.run(
        reward(
            prompts=[prompts[0], prompts[0], prompts[1], prompts[1]],
            completions=completions,
            completion_ids=[[1]] * 4,
            image=[picture] * 4,
            trainer_state=None,
            log_metric=metrics.__setitem__,
            log_extra=extra.__setitem__,
        )
    )
    assert values == [-1.0, 1.0, 0.0, None]
    assert metrics["unified_reward/letters/failed"] == 0.25
    assert extra["unified_reward_failure"] == ["", "", "", "letters: failed: broken"]
    assert reward.__name__ == "unified_reward"
    samples = {(each.prompt, *each.candidates): each for each in LETTERS.samples}
    assert {prompt for prompt, _ in samples} == {"how many?", "what?"}
    assert {(each.task, len(each.context)) for each in samples.values()} == {
        (Task.IMAGE_UNDERSTANDING, 1)
    }


@pytest.mark.parametrize(
    ("columns", "kinds"),
    [
        ({}, []),
        ({"images": [[grey(1)[0], grey(2)[0]]] * 2}, ["Image", "Image"]),
        ({"image": [{"bytes": None, "path": "a.png"}] * 2}, ["Image"]),
        ({"video": [list(grey(1, 2))] * 2}, ["Video"]),
        ({"videos": [[grey(1, 2)]] * 2}, ["Video"]),
        ({"image": [None, None]}, []),
    ],
)
def test_trl_columns_are_what_the_answers_are_about(client, columns, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(grey(3)[0]).save("a.png")
    LETTERS.samples.clear()
    reward = trl_reward(client, RewardSet([RewardTerm("letters")]), num_generations=2)
    assert asyncio.run(reward(["why?"] * 2, ["aa", "b"], **columns)) == [1.0, -1.0]
    assert [type(medium).__name__ for medium in LETTERS.samples[0].context] == kinds
    is_video = any(isinstance(medium, Video) for medium in LETTERS.samples[0].context)
    task = Task.VIDEO_UNDERSTANDING if is_video else Task.IMAGE_UNDERSTANDING
    assert LETTERS.samples[0].task == task


def test_trl_with_parts_of_groups_in_a_process_is_refused(client):
    rewards = RewardSet([RewardTerm("letters")])
    with pytest.raises(ValueError, match="whole groups of 4 in each process, which has 2 rows"):
        asyncio.run(trl_reward(client, rewards, num_generations=4)(["a"] * 2, ["b"] * 2))


def test_a_win_rate_in_the_group_is_a_reward_too(client):
    rewards = RewardSet([RewardTerm("letters", form="win_rate")], aggregate="sum")
    reward = trl_reward(client, rewards, num_generations=3)
    values = asyncio.run(reward(["p"] * 6, ["a", "b" * 40, "b" * 80, "c" * 7, "broken", "d"]))
    assert values[:3] == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)
    assert values[3] > 0.99
    assert values[4] is None
    assert values[5] < 0.01


def test_ms_swift_takes_the_same_function_in_a_line(client):
    class AsyncORM:
        def __init__(self, args=None, **kwargs):
            self.args = args

    reward = trl_reward(client, RewardSet([RewardTerm("letters")]), num_generations=2)

    class UnifiedReward(AsyncORM):
        async def __call__(self, completions, messages, **columns):
            return await reward(messages, completions, **columns)

    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]] * 2
    assert asyncio.run(UnifiedReward()(["x", "xyz"], messages=messages, solution=[1, 2])) == [-1, 1]


NCHW = torch.tensor(grey(10, 200).transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize(
    "images",
    [
        NCHW,
        NCHW.to(torch.float64),
        grey(10, 200),
        [PIL.Image.fromarray(image) for image in grey(10, 200)],
        NCHW[:, None].repeat(1, 3, 1, 1, 1),
    ],
    ids=["NCHW", "double", "NHWC", "PIL", "NTCHW"],
)
def test_flow_grpo_gets_numbers_in_the_order_of_its_images(client, images):
    scores, info = flow_grpo_reward(client, numbers())(images, ["a", "b"], [{}, {}])
    assert scores == [10.0, 200.0]
    assert info == {"brightness": [10.0, 200.0]}


def test_flow_grpo_gets_an_error_or_the_value_that_was_named_for_a_failure(client):
    images = grey(10, 200)
    with pytest.raises(RewardError, match="1 of 2 items lack a reward; the first: brightness"):
        flow_grpo_reward(client, numbers())(images, ["nan", "b"], {})
    scores, info = flow_grpo_reward(client, numbers(on_failure=-5.0))(images, ["nan", "b"], {})
    assert scores == [-5.0, 200.0]
    assert info == {"brightness": [None, 200.0]}
    with pytest.raises(ValueError, match="3 prompts, 2 candidates"):
        flow_grpo_reward(client, numbers())(images, ["a", "b", "c"], {})


def test_verl_omni_gets_a_score_for_each_image_or_clip(client):
    compute_score = verl_omni_compute_score(client, numbers())
    solutions = [torch.tensor(image.transpose(2, 0, 1)) for image in grey(10, 20, 30)]
    solutions += [np.stack([each] * 2) for each in grey(40).transpose(0, 3, 1, 2)]

    async def all_scores():
        keys = ("data_source", "ground_truth")
        fixed = dict.fromkeys(keys, "a text")
        calls = [
            compute_score(
                solution_image=one, extra_info={"prompt": "p"}, reward_router="x", **fixed
            )
            for one in solutions
        ]
        return await asyncio.gather(*calls)

    scores = asyncio.run(all_scores())
    assert scores == [{"score": v, "brightness": v} for v in (10.0, 20.0, 30.0, 40.0)]
    failed = verl_omni_compute_score(client, numbers(on_failure=0.0))
    result = asyncio.run(failed("source", solutions[0], "nan", None))
    assert result["score"] == 0.0
    assert np.isnan(result["brightness"])


@dataclass
class Output:
    """Stands for Flow-Factory's RewardModelOutput."""

    rewards: object
    extra_info: object = None


class PointwiseRewardModel:
    """Stands for Flow-Factory's base class."""

    required_fields = ()
    use_tensor_inputs = True

    def __init__(self, config, accelerator):
        self.config, self.accelerator = config, accelerator


class GroupwiseRewardModel(PointwiseRewardModel):
    """Stands for Flow-Factory's other base class."""


def test_flow_factory_gets_a_class_of_its_own_base(client):
    kind = flow_factory_reward(client, numbers(), PointwiseRewardModel, Output)
    model = kind("config", "accelerator")
    images = [PIL.Image.fromarray(image) for image in grey(10, 200)]
    result = model(prompt=["a", "b"], image=images, video=None, audio=None, metadata="{}")
    assert result.rewards.tolist() == [10.0, 200.0]
    assert result.rewards.dtype == np.float32
    edited = model(prompt=["a", "b"], image=images, condition_images=[images[:1], images[1:]])
    assert edited.rewards.tolist() == [10.0, 200.0]
    clips = model(prompt=["a"], video=[images])
    assert clips.rewards.tolist() == [10.0]
    assert (model.required_fields, model.use_tensor_inputs) == (("prompt", "image"), False)


def test_flow_factory_groups_give_z_scores_and_win_rates(client):
    terms = [BRIGHT, RewardTerm("brightness", form="win_rate", name="wins")]
    rewards = RewardSet(terms, on_failure="raise")
    model = flow_factory_reward(client, rewards, GroupwiseRewardModel, Output)("c", "a")
    images = [PIL.Image.fromarray(image) for image in grey(10, 200)]
    result = model(prompt=["a", "a"], image=images)
    assert result.rewards.tolist() == pytest.approx([-2.0, 2.0])
    assert result.extra_info["wins"][1] > 0.5


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (numbers(on_failure="none"), "needs a number"),
        (numbers(aggregate="gdpo"), "does not pass whole groups"),
        (
            RewardSet([RewardTerm("a", form="win_rate")], aggregate="sum", on_failure="raise"),
            "does not pass whole groups",
        ),
    ],
)
def test_trainers_that_need_a_number_refuse_sets_that_have_none(rewards, message):
    nowhere = RewardClient("http://127.0.0.1:9")
    for make in (
        flow_grpo_reward,
        verl_omni_compute_score,
        lambda *given: flow_factory_reward(*given, PointwiseRewardModel, Output),
    ):
        with pytest.raises(ValueError, match=message):
            make(nowhere, rewards)
