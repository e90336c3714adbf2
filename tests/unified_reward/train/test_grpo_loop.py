"""Averages, trackers, turns and overlap of a training by rewards."""

import json
import threading
from argparse import Namespace

import pytest
import torch
from accelerate.tracking import GeneralTracker, register_tracker_class
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from tests.unified_reward.train.rewarded import (
    KilledError,
    brightness,
    config,
    pictures,
    train,
    written,
)
from unified_reward import open_judge, policies
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.train import run_history
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.grpo_loop import RewardLoop
from unified_reward.train.offload import Turns


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return written(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def small(steps=2, **options):
    return config(steps, **{"group": 2, "prompts_per_step": 1, **options})


def darkness(samples):
    return [-value for value in brightness(samples)]


def rows(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("every", "kept"), [(1, (1 / 10, 2 / 11, 0.2)), (2, (None, 2 / 11))])
def test_the_average_is_written_and_the_first_steps_count_for_more(
    source, prompts, tmp_path, monkeypatch, every, kept
):
    weights = []
    move = RewardLoop._move_average

    def spied(self, n):
        weights.append({k: each.detach().clone() for k, each in self._model.trained.items()})
        move(self, n)

    start = {}
    step = RewardLoop._step

    def first(self, *given):
        start.update(start or {k: v.detach().clone() for k, v in self._model.trained.items()})
        return step(self, *given)

    monkeypatch.setattr(RewardLoop, "_move_average", spied)
    monkeypatch.setattr(RewardLoop, "_step", first)
    train(source, prompts, tmp_path, small(3, ema_decay=0.2, ema_every=every))
    found = load_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors")
    average = dict(start)
    for share, later in zip(kept, weights, strict=False):
        for name, weight in later.items() if share else ():
            average[name] = share * average[name] + (1 - share) * weight
    for name, expected in average.items():
        written_name = name.replace(".default", "")
        torch.testing.assert_close(found[written_name], expected)
        assert not torch.equal(found[written_name], weights[-1][name])


def test_an_average_changes_nothing_but_what_is_measured(source, prompts, tmp_path):
    shape = {"optim": {"lr": 3e-2}, "held_out": 1, "held_out_every": 2}
    plain, _ = train(source, prompts, tmp_path / "plain", small(4, **shape))
    averaged, _ = train(source, prompts, tmp_path / "averaged", small(4, **shape, ema_decay=0.9))
    assert plain["losses"] == averaged["losses"]
    assert plain["held_out"][0] == averaged["held_out"][0]
    assert plain["held_out"][1:] != averaged["held_out"][1:]


class Recorder(GeneralTracker):
    name = "recorder"
    requires_logging_directory = False
    logged = None

    def __init__(self, run_name, **_):
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        assert values["algorithm"] == "grpo"
        assert values["optim.lora_rank"] == 4

    def log(self, values, step, **_):
        self.logged.append((step, values))


def test_trackers_get_every_step_once_also_of_a_run_that_was_killed_twice(
    source, prompts, tmp_path, monkeypatch
):
    register_tracker_class(Recorder)
    monkeypatch.setattr(Recorder, "logged", [])
    options = small(4, optim={"save_every": 2}, held_out=1, held_out_every=2, report_to="recorder")
    for killed_at in (6, 2):  # a prompt that is held out is scored before steps 1 and 3
        calls = []

        def reward(samples, calls=calls, killed_at=killed_at):
            calls.append(1)
            if len(calls) == killed_at:
                raise KilledError
            return brightness(samples)

        with pytest.raises(KilledError):
            train(source, prompts, tmp_path, options, reward)
    report, _ = train(source, prompts, tmp_path, options)
    steps, values = zip(*Recorder.logged, strict=True)
    assert steps == (0, 1, 2, 3, 4)
    assert [each.get("held_out") for each in values] == [
        dict(report["held_out"]).get(step) for step in steps
    ]
    assert [each["reward"] for each in values[1:]] == pytest.approx(report["reward"])
    assert values[4]["rewards/reward"] == values[4]["reward"]
    assert [row["step"] for row in rows(tmp_path)] == [*steps]


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(run_history, "get_available_trackers", lambda: ["trackio"])
    for name, message in (
        ("wandb", "wandb is not installed; .* trackio"),
        (("trackio", "paper"), "'paper' is no tracker"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tmp_path / "none", tmp_path / "none", tmp_path, small(report_to=name))
    assert "trackio" in run_history.tracker_names("all")


def test_several_rewards_are_reported_by_name_and_others_are_only_measured(
    source, prompts, tmp_path
):
    rewards = {"bright": brightness, "dark": darkness}
    options = small(2, held_out=2, held_out_every=2, weights=(2.0, 1.0))
    report = train_pipeline(
        source, prompts, rewards, options, tmp_path, held_out_rewards={"square": square}
    )
    assert report["rewards"]["bright"] == pytest.approx(report["reward"])
    assert report["rewards"]["dark"] == pytest.approx([-value for value in report["reward"]])
    assert report["held_out_rewards"].keys() == {"bright", "dark", "square"}
    (_, last), (step, squared) = report["held_out"][-1], report["held_out_rewards"]["square"][-1]
    assert step == 2
    assert squared == pytest.approx(last**2, rel=0.05), "bright pictures differ little"
    assert rows(tmp_path)[-1]["held_out_rewards"]["square"] == squared
    assert rows(tmp_path)[-1]["rewards"]["dark"] == report["rewards"]["dark"][-1]


def square(samples):
    return [value**2 for value in brightness(samples)]


@pytest.mark.parametrize(
    ("held_out", "name", "message"),
    [(0, "other", "give held_out too"), (1, "reward", "trained or only measured, not both")],
)
def test_rewards_that_could_not_be_measured_apart_are_refused(tmp_path, held_out, name, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, tmp_path, tmp_path, small(held_out=held_out), held_out_rewards={name: None})


def test_overlapped_rewards_are_those_that_follow_sampling(source, prompts, tmp_path):
    def reward(samples):
        return [
            None if sample.id == "p1" else v
            for sample, v in zip(samples, brightness(samples), strict=True)
        ]

    runs = [
        train(
            source,
            prompts,
            tmp_path / str(i),
            config(2, async_reward=bool(i), prompts_per_step=3),
            reward,
        )
        for i in range(2)
    ]
    assert runs[0] == runs[1]
    assert sum(runs[0][0]["failed_groups"]) > 0
    assert rows(tmp_path / "0") == rows(tmp_path / "1")


def test_rewards_are_made_while_the_next_group_is_sampled(source, prompts, tmp_path, monkeypatch):
    numbers, second = [], threading.Event()
    sample = GroupSampler.sample

    def spied(self, step, number):
        numbers.append(number)
        if len(numbers) == 2:
            second.set()
        return sample(self, step, number)

    def reward(samples):
        assert second.wait(60), "the second group is sampled before the first has rewards"
        return brightness(samples)

    monkeypatch.setattr(GroupSampler, "sample", spied)
    train(source, prompts, tmp_path, config(1, async_reward=True), reward)
    assert numbers == [0, 1]


def test_an_error_of_an_overlapped_reward_is_raised_once_and_nothing_is_lost(
    source, prompts, tmp_path
):
    calls = []

    def reward(samples):
        calls.append(1)
        if len(calls) > 3:
            raise ZeroDivisionError
        return brightness(samples)

    options = config(2, async_reward=True, prompts_per_step=3)
    with pytest.raises(ModelError, match=r"ZeroDivisionError.*; resume from .*state-000001.pt"):
        train(source, prompts, tmp_path, options, reward)
    assert len(calls) == 4, "the other groups of the step are not asked about"
    resumed, _ = train(source, prompts, tmp_path, options)
    whole, _ = train(source, prompts, tmp_path / "whole", options)
    assert resumed == whole


class Module(torch.nn.Linear):
    """A network that keeps a record of where it is moved to."""

    def __init__(self, name, record):
        super().__init__(1, 1)
        self.name, self.record = name, record

    def to(self, device):
        self.record.append((self.name, str(device)))


def local_judge(record):
    judge = open_judge("scripted:first")
    judge.networks = lambda: [Module("judge", record)]
    return judge


def test_judge_and_policy_take_turns():
    record = []
    rewards = GroupRewards({"judge": local_judge(record), "function": brightness})
    turns = Turns(torch.device("meta"), rewards, None)
    pipeline = Namespace(components={"unet": Module("policy", record), "scheduler": None})

    def break_off():
        with turns.judging(pipeline):
            record.append("judging")
            raise KilledError

    with pytest.raises(KilledError):
        break_off()
    assert record == [
        ("judge", "cpu"),
        ("policy", "cpu"),
        ("judge", "meta"),
        "judging",
        ("judge", "cpu"),
        ("policy", "meta"),
    ]


def test_turns_change_nothing_but_places(source, prompts, tmp_path):
    record = []
    judge = local_judge(record)
    options = small(2, held_out=1, held_out_every=2)
    plain, _ = train(source, prompts, tmp_path / "plain", options, judge)
    assert not record
    offloaded, _ = train(
        source,
        prompts,
        tmp_path / "turns",
        small(2, held_out=1, held_out_every=2, offload=True),
        judge,
    )
    assert offloaded == plain
    assert record == [("judge", "cpu")] * (1 + 2 * 4), "there and back for each use"


def test_turns_without_a_local_judge_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="none of reward is a judge in this process"):
        train(tmp_path, tmp_path, tmp_path, small(offload=True))
    with pytest.raises(ConfigError, match="exclude each other"):
        small(offload=True, async_reward=True)


def test_nft_takes_a_solver_that_has_no_stochastic_form(source, prompts, tmp_path):
    policy = policies.load(source, device="cpu")
    policy.pipeline.scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", steps_offset=1
    )
    policy.pipeline.save_pretrained(tmp_path / "source", safe_serialization=True)
    policies.write_defaults(policy.options, tmp_path / "source")
    with pytest.raises(ModelError, match="draws noise in its own steps"):
        train(tmp_path / "source", prompts, tmp_path / "grpo", small(1))
    report, _ = train(tmp_path / "source", prompts, tmp_path / "nft", small(2, algorithm="nft"))
    assert report["norm_ratio"][0] == pytest.approx(1, abs=1e-6)
    assert report["kl"][1] > 0
    trained = policies.load(tmp_path / "nft" / "policy", device="cpu")
    assert type(trained.pipeline.scheduler) is DPMSolverMultistepScheduler
    assert trained.pipeline.scheduler.config.algorithm_type == "sde-dpmsolver++"
