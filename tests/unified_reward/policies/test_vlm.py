"""Answers sampled from a tiny random vision-language model."""

import copy
import dataclasses

import pytest
import torch
from scipy.stats import chisquare

from tests.unified_reward.media.made import noise, picture
from unified_reward import media
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Video
from unified_reward.policies import Sampling, load, seeds
from unified_reward.policies.vlm import GumbelNoise, VLMPolicy


QUESTION = "rate picture: a red circle"


@pytest.fixture(scope="module")
def context():
    return [Image(picture(noise(32, 32, 3)))]


@pytest.fixture(scope="module")
def policy(checkpoints):
    return load(checkpoints["qwen3_vl"], {"temperature": 1.0, "max_new_tokens": 12}, device="cpu")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_noise_samples_the_softmax_at_its_temperature(temperature):
    scores = torch.tensor([0.0, 1.0, -1.0, 2.5, float("-inf"), 0.3])
    n = 20_000
    noisy = GumbelNoise(temperature, range(n))(torch.zeros(n, 0), scores.expand(n, -1))
    counts = noisy.argmax(-1).bincount(minlength=len(scores)).double()
    expected = (scores.double() / temperature).softmax(-1) * n
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], expected[possible]).pvalue > 0.01


def test_a_very_low_temperature_takes_the_most_probable_token():
    scores = torch.tensor([[0.0, 9.0, -1.0, 8.0]])
    noisy = GumbelNoise(1e-300, [3])(torch.zeros(1, 0), scores)
    assert int(noisy.argmax()) == 1
    assert not noisy.isnan().any()


def test_every_token_gets_noise_of_its_own():
    noisy, flat = GumbelNoise(1.0, [3]), torch.zeros(1, 50)
    assert not torch.equal(noisy(flat, flat), noisy(flat, flat))


def test_a_registered_policy_is_loaded_by_its_name():
    policy = load("tiny_base", {"max_new_tokens": 4}, device="cpu")
    assert isinstance(policy, VLMPolicy)
    assert policy.options.max_new_tokens == 4


def test_an_answer_depends_on_its_seed_and_not_on_its_neighbours(policy, context):
    named = seeds("p", 4, 0)
    together = policy.sample(QUESTION, context, named)
    assert together == [policy.sample(QUESTION, context, [one])[0] for one in named]
    assert len(set(together)) == 4
    assert not set(together) & set(policy.sample(QUESTION, context, seeds("p", 4, 1)))
    assert not set(together) & set(policy.sample(QUESTION, context, seeds("q", 4, 0)))


def test_answers_are_sampled_alone_where_a_batch_changes_them(policy):
    vlm = copy.copy(policy.vlm)
    vlm.ways = dataclasses.replace(vlm.ways, batches="of equal length")
    assert VLMPolicy(vlm, Sampling()).batch_size > 1
    vlm.ways = dataclasses.replace(vlm.ways, batches="of one")
    assert VLMPolicy(vlm, Sampling()).batch_size == 1


def test_seeds_do_not_depend_on_how_many_are_asked_for():
    assert seeds("p", 9, 7)[:3] == seeds("p", 3, 7)


def test_without_temperature_it_says_what_the_model_says(checkpoints, context):
    policy = load(checkpoints["qwen3_vl"], {"temperature": 0, "max_new_tokens": 12}, device="cpu")
    request = Request((*(media.open_image(one) for one in context), QUESTION), max_new_tokens=12)
    (answer,) = policy.vlm.generate([request])
    assert policy.sample(QUESTION, context, [1, 2]) == [answer.text.strip()] * 2


def test_a_penalty_of_the_checkpoint_is_not_applied(checkpoints, context, policy):
    vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    vlm.model.generation_config.repetition_penalty = 50.0
    other = VLMPolicy(vlm, policy.options)
    assert other.sample(QUESTION, context, [1, 2]) == policy.sample(QUESTION, context, [1, 2])


def test_a_clip_is_shown_as_eight_frames_ends_included(policy):
    frames = noise(15, 32, 32, 3)
    eight = [Image(frames[i], "HWC") for i in range(0, 15, 2)]
    clip = [Video(frames, "THWC")]
    assert policy.sample(QUESTION, clip, [1, 2]) == policy.sample(QUESTION, eight, [1, 2])


def test_a_question_about_nothing_is_refused(policy):
    with pytest.raises(ValueError, match="holds no image or video"):
        policy.sample(QUESTION, [], [1])


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_temperature_below_zero_or_without_end_is_an_error(wrong):
    with pytest.raises(ConfigError, match=r"temperature .* finite"):
        Sampling(wrong)


def test_options_of_a_pipeline_are_refused(checkpoints):
    with pytest.raises(ConfigError, match="vision-language model, which takes no fps, steps"):
        load(checkpoints["qwen3_vl"], {"temperature": 1.0, "steps": 2, "fps": 4, "width": None})
