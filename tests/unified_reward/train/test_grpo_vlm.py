"""GRPO of tiny vision-language models by functions of their answers."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

from tests.unified_reward.media.made import picture
from unified_reward import policies
from unified_reward.backends import hf_vlm
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, DataError, MediaError, ModelError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.requests import Request
from unified_reward.train import grpo_vlm
from unified_reward.train.grpo_vlm import VLMGRPO, Rewards, learn_from_rewards
from unified_reward.train.optim import OptimConfig


TEXT = "rate picture: a red circle"


def image(seed, size=(40, 56)):
    return picture(np.random.default_rng(seed).integers(0, 256, (*size, 3)))


REQUESTS = [
    Request((image(0), TEXT)),
    Request((image(1), TEXT)),
    Request((image(2, (90, 30)), "first", image(3), "second: <|image_pad|>")),
    Request((*(image(4 + i, (28, 28)) for i in range(8)), "a clip of 8 frames")),
]


def grpo(steps=1, **options):
    names = OptimConfig.__dataclass_fields__.keys() & options.keys()
    optim = {"batch_size": 4, "accumulate": 1, "lr": 1e-3, "warmup": 0.0}
    optim |= {name: options.pop(name) for name in names}
    defaults = {"group": 2, "max_new_tokens": 6}
    return VLMGRPO(OptimConfig(steps, **optim), **(defaults | options))


TINY = checkpoint_path("tiny_vlm")


def shortness(answers):
    return Rewards([-float(answer.n_tokens) for answer in answers])


def letters(answers):
    return Rewards([float(len(answer.text)) for answer in answers])


def learn(folder, out, config, reward=letters, requests=REQUESTS[:3]):
    log = []
    vlm = load_vlm(folder, device="cpu", dtype="float32")
    return learn_from_rewards(vlm, requests, reward, config, out, log.append), log


@pytest.fixture
def folder(checkpoints):
    return checkpoints["qwen3_vl"]


@pytest.fixture
def scored(monkeypatch):
    """Rows, tokens of answers and log-probabilities of each pass of the trainer."""
    passes, score = [], grpo_vlm._GRPOTrainer._score_tokens

    def recorded(self, model, rows, answers, mask):
        logps, entropies = score(self, model, rows, answers, mask)
        passes.append([*zip(rows, answers, logps.detach().clone(), strict=True)])
        return logps, entropies

    monkeypatch.setattr(grpo_vlm._GRPOTrainer, "_score_tokens", recorded)
    return passes


@pytest.fixture
def advantages(monkeypatch):
    """Row and advantage of each answer that is learned from."""
    found, loss = [], grpo_vlm._GRPOTrainer._compute_loss

    def recorded(self, model, inputs):
        found.extend(zip(inputs["row"].tolist(), inputs["advantages"].tolist(), strict=True))
        return loss(self, model, inputs)

    monkeypatch.setattr(grpo_vlm._GRPOTrainer, "_compute_loss", recorded)
    return found


@lru_cache(maxsize=1)
def in_double_precision(folder):
    """Asked in the plain way alone, so that no other is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_vlm, "prove", lambda _: None)
        return load_vlm(folder, device="cpu", dtype="float64")


def logprobs(folder, request, ids, temperature):
    """Log-probabilities of an answer alone, in double precision."""
    vlm = in_double_precision(folder)
    inputs = vlm.chat.batch([request], [ids])
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -len(ids) - 1 : -1] / temperature
    return logits.log_softmax(-1)[range(len(ids)), ids]


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen2_5_vl", {}),
        ("qwen3_vl", {"lora_rank": 2, "beta": 0.1}),
        ("qwen3_vl", {"beta": 0.1}),
        ("llava_onevision", {}),
        ("gemma3", {}),
        ("idefics3", {}),
    ],
)
def test_log_probabilities_are_those_of_the_model_that_sees_the_images(
    checkpoints, tmp_path, scored, monkeypatch, name, options
):
    """In a batch of one, two and eight images: TRL drops inputs that it does not know."""
    monkeypatch.setattr(hf_vlm, "prove", lambda _: None)  # training uses none of the faster ways
    config = grpo(temperature=0.8, batch_size=8, **options)
    report, _ = learn(checkpoints[name], tmp_path, config, requests=REQUESTS)
    assert len(scored) == (2 if "beta" in options else 1)
    for each in scored:
        assert sorted({row for row, _, _ in each}) == [0, 1, 2, 3]
        for row, ids, found in each:
            wanted = logprobs(checkpoints[name], REQUESTS[row], ids, 0.8)
            assert torch.allclose(found[: len(ids)].double(), wanted, atol=1e-4), name
            assert not found[len(ids) :].any()
    row, ids, found = next(one for one in scored[0] if one[0] == 0)
    other = logprobs(checkpoints[name], REQUESTS[1], ids, 0.8)  # the same text on another picture
    assert (found[: len(ids)] - other).abs().max() > 1e-3
    assert report["kl"] == ([0.0] if "beta" in options else [None])
    assert report["losses"][0][1] == pytest.approx(0, abs=1e-6)  # advantages have the mean 0


def test_answers_and_prompts_are_those_of_the_policy(folder, tmp_path, monkeypatch):
    """Almost without temperature the answers are those that the policy gives at 0."""
    prompts, generate = [], grpo_vlm._GRPOTrainer._generate_single_turn
    given = {}

    def recorded(self, prompt_ids, *rest):
        prompts.extend(zip(self._rows, prompt_ids, strict=True))
        return generate(self, prompt_ids, *rest)

    def reward(answers):
        given.update({answer.row: answer.text for answer in answers})
        return letters(answers)

    monkeypatch.setattr(grpo_vlm._GRPOTrainer, "_generate_single_turn", recorded)
    learn(folder, tmp_path, grpo(temperature=1e-4, batch_size=8), reward, REQUESTS)
    vlm = load_vlm(folder, device="cpu")
    for row, ids in prompts:
        assert ids == vlm.chat.process([REQUESTS[row]])["input_ids"][0].tolist()
    for row, text in given.items():
        inputs = vlm.inputs([REQUESTS[row]])
        new = vlm.generate_tokens(inputs, 6)
        assert text == vlm.chat.decode(new.tolist())[0].strip()
    assert sorted(given) == [0, 1, 2, 3]


def test_the_ratio_is_one_until_the_first_update(folder, tmp_path, scored):
    """With two updates the old log-probabilities are computed before the first."""
    report, _ = learn(folder, tmp_path, grpo(2, updates=2, lr=1e-2, epsilon=1e-3))
    old, first, second = (
        {(row, *ids): logps[: len(ids)] for row, ids, logps in each} for each in scored
    )
    assert all(torch.allclose(first[key], old[key], atol=1e-6) for key in old)
    assert any((second[key] - old[key]).abs().max() > 1e-3 for key in old)
    assert report["clipped"][0] == 0 < report["clipped"][1]


def test_the_reference_of_a_policy_that_is_an_adapter_has_the_adapter(tmp_path):
    """TRL would load it from the folder, which has no weights of a whole model."""
    config = grpo(2, beta=0.1, lr=1e-3)
    report, _ = learn(TINY, tmp_path, config)
    assert report["kl"][0] == 0 < report["kl"][1]


@pytest.mark.parametrize("options", [{"lr": 3e-3}, {"lr": 1e-2, "lora_rank": 4}], ids=str)
def test_the_reward_rises_and_what_is_written_is_the_trained_policy(tmp_path, options):
    config = grpo(5, group=4, batch_size=8, held_out=1, held_out_every=3, **options)
    report, _ = learn(TINY, tmp_path, config, shortness)
    assert report["reward"][-1] > report["reward"][0] + 1
    assert [step for step, _ in report["held_out"]] == [0, 3, 5]
    assert (report["prompts"], report["left_out"]) == (2, 0)
    policy = policies.load(tmp_path / "policy", device="cpu").vlm
    lengths = [len(policy.generate_tokens(policy.inputs([one]), 6)[0]) for one in REQUESTS[:2]]
    assert max(lengths) < 6
    if "lora_rank" in options:
        merged = policy.model.state_dict()
        apart = policies.load(tmp_path / "adapter", device="cpu").vlm.model.state_dict()
        assert all(torch.allclose(apart[name], merged[name], atol=1e-5) for name in merged)


@pytest.mark.parametrize(
    ("options", "calls_before"),
    [({}, 4), ({"lora_rank": 2, "updates": 2}, 3)],
    ids=["full", "lora"],
)
def test_a_killed_run_goes_on_and_ends_as_if_it_was_not(folder, tmp_path, options, calls_before):
    """Killed in the third step, of which the held-out reward was measured in between."""
    config = grpo(4, save_every=2, held_out=1, held_out_every=2, beta=0.1, **options)
    whole, _ = learn(folder, tmp_path / "whole", config)
    calls = []

    def killed(answers):
        if len(calls) == calls_before:
            raise KeyboardInterrupt
        calls.append(answers)
        return letters(answers)

    with pytest.raises(KeyboardInterrupt):
        learn(folder, tmp_path / "cut", config, killed)
    assert [each.name for each in (tmp_path / "cut").rglob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "cut" / "policy").exists()
    report, _ = learn(folder, tmp_path / "cut", config)
    assert report["held_out"] == whole["held_out"]
    for name in ("losses", "reward", "kl"):
        found, wanted = (
            torch.tensor([each for each in one[name] if each is not None])
            for one in (report, whole)
        )
        assert torch.allclose(found, wanted, atol=1e-5), name
    assert len(report["losses"]) == 4


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_failed_reward_leaves_its_group(folder, tmp_path, advantages, missing):
    """The rewards 1 and 3 beside it are one deviation of a pair from their mean."""
    values = [1.0, missing, 3.0, 5.0, 5.0, 5.0]
    report, _ = learn(
        folder, tmp_path, grpo(group=3, batch_size=6), lambda _: Rewards(values, {"cost": 7.0})
    )
    spread = math.sqrt(2) + 1e-4  # of 1 and 3, with n - 1; TRL adds 1e-4
    wanted = [-1 / spread, 0.0, 0.0, 0.0, 0.0, 1 / spread]
    assert sorted(value for _, value in advantages) == pytest.approx(wanted)
    assert len({row for row, value in advantages if value}) == 1
    counts = [report[name] for name in ("failed", "failed_groups", "constant_groups", "cost")]
    assert counts == [[1.0], [0.0], [1.0], [7.0]]


def test_answers_that_the_limit_cut_are_counted_and_can_be_left_out(tmp_path, scored):
    answers = []

    def reward(given):
        answers.extend(given)
        return letters(given)

    config = grpo(max_new_tokens=4, batch_size=12, group=4, mask_truncated_completions=True)
    report, _ = learn(TINY, tmp_path, config, reward)
    cut = [answer for answer in answers if answer.is_cut]
    assert 0 < len(cut) < len(answers) == 12
    assert report["cut"] == [pytest.approx(len(cut) / 12)]
    assert report["tokens"] == [pytest.approx(sum(answer.n_tokens for answer in answers) / 12)]
    assert sum(not ids for _, ids, _ in scored[0]) == len(cut)


def test_a_step_of_cut_answers_alone_changes_nothing(folder, tmp_path):
    config = grpo(max_new_tokens=1, mask_truncated_completions=True, weight_decay=0.0)
    report, _ = learn(folder, tmp_path, config, lambda given: Rewards([1.0, 2.0] * 2))
    assert report["losses"] == [(1, 0.0)]


def test_without_rewards_a_run_stops_after_three_steps(folder, tmp_path):
    def none(answers):
        return Rewards([None] * len(answers))

    message = r"no answer got a reward in 3 steps in a row; resume from .*checkpoint-2"
    with pytest.raises(ModelError, match=message):
        learn(folder, tmp_path, grpo(4, save_every=1), none)


def test_weights_that_overflow_stop_the_run_at_its_step(folder, tmp_path):
    message = r"of step 2 is not finite; the last checkpoint is .*checkpoint-1; use a lower"
    with pytest.raises(ModelError, match=message):
        learn(folder, tmp_path, grpo(3, save_every=1, lr=1e25))


class Gone:
    """Requests of which the first cannot be opened."""

    def __init__(self, n=4):
        self._n = n

    def __len__(self):
        return self._n

    def __getitem__(self, index):
        if index == 0:
            raise MediaError("gone.png is not there")
        return REQUESTS[index % 4]

    def name(self, index):
        return f"p{index}"


def test_requests_that_cannot_be_used_are_left_out_with_a_reason(folder, tmp_path, monkeypatch):
    rows = set()

    def reward(answers):
        rows.update(answer.row for answer in answers)
        return letters(answers)

    report, log = learn(folder, tmp_path, grpo(), reward, Gone())
    assert (report["prompts"], report["left_out"]) == (3, 1)
    assert log == ["record 'p0' is left out: gone.png is not there"]
    assert rows <= {1, 2, 3}
    with pytest.raises(ConfigError, match=r"a step has 4 prompts .* and there are 3"):
        learn(folder, tmp_path / "few", grpo(batch_size=8), letters, Gone())
    with pytest.raises(DataError, match="no prompt can be used"):
        learn(folder, tmp_path / "none", grpo(max_new_tokens=10**6), letters, Gone())


def test_requests_of_a_block_are_learned_in_one_step_or_left_out_together(folder, tmp_path):
    """Request 0 of six cannot be used, so that request 1 is left out with it."""
    steps = []

    def reward(answers):
        steps.append({answer.row for answer in answers})
        return letters(answers)

    report, _ = learn(folder, tmp_path, grpo(steps=4, block=2), reward, Gone(6))
    assert (report["prompts"], report["left_out"]) == (4, 2)
    assert sorted(map(sorted, steps)) == [[2, 3], [2, 3], [4, 5], [4, 5]]


def test_a_model_that_padding_in_front_changes_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        grpo_vlm, "choose_padding", lambda _, chat: setattr(chat, "padding_side", "right")
    )
    with pytest.raises(ModelError, match="with padding in front of a prompt it answers otherwise"):
        learn(folder, tmp_path, grpo())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 1}, "group must be at least 2, and finite, not 1"),
        ({"group": 3}, "accumulate is 4, which must be a multiple of group, 3"),
        ({"block": 3}, "2 prompts a step .*, which must be a multiple of block, 3"),
        ({"block": 2, "held_out": 2}, "held_out is for prompts that stand alone"),
        ({"updates": 2}, "optim.steps is 1, which must be a multiple of updates, 2"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"epsilon_high": math.inf}, "epsilon_high must be above 0, and finite"),
        ({"weights": (math.nan,)}, "weights must be finite numbers"),
        ({"lora_targets": ("lm_head",)}, "lm_head takes no adapter in GRPO"),
        ({"vllm": {"mode": "colocate"}}, "vllm is not installed"),
        ({"vllm": {"speed": 2}}, "vllm: there is no option speed; there are .*gpu_memory_util"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        grpo(**options)
