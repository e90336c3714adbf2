"""Functions of a user's module as rewards: how they are found, and what they may return."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.judges.table import TableJudge
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.reward_functions import (
    RewardFunctionError,
    call_function,
    open_reward,
    reward_files,
)


SAMPLES = [Sample(Task.IMAGE_GENERATION, "x", (Image("a.png"),))] * 2


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text, name="my_rewards"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        return name

    yield write
    sys.modules.pop("my_rewards", None)


def test_a_function_of_the_working_directory_is_found_and_its_file_counts(module, tmp_path):
    module(
        "class Length:\n    def score(self, samples):\n        return [1] * len(samples)\n"
        "length = Length()\n"
    )
    function = open_reward("my_rewards:length.score")
    assert call_function("f", function, SAMPLES) == [1, 1]
    assert reward_files("my_rewards:length.score") == [tmp_path / "my_rewards.py"]


def test_a_judge_of_a_module_is_a_judge(module):
    module("from unified_reward import open_judge\njudge = open_judge('scripted:tie')\n")
    assert open_reward("my_rewards:judge").name == "scripted:tie"


def test_the_name_of_a_judge_is_no_module(module):
    module("", "scripted")
    assert open_reward("scripted:random").name == "scripted:random"


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("", "my_reward:f", "is no judge, and there is no module my_reward in"),
        ("import no_such_module", "my_rewards:f", "No module named 'no_such_module'.*line 1"),
        ("1 / 0", "my_rewards:f", "ZeroDivisionError: division by zero.*my_rewards.py, line 1"),
        ("def g(): pass", "my_rewards:f", "my_rewards:f does not exist: .* no attribute 'f'"),
        ("f = 3", "my_rewards:f", "is 3, not a function of samples"),
        ("class f: pass", "my_rewards:f", "is a class, not a function of samples"),
        ("def f(a, b): pass", "my_rewards:f", r"takes \(a, b\); .* takes a list of samples"),
    ],
)
def test_what_is_no_function_is_refused(module, text, reference, message):
    module(text)
    with pytest.raises(ConfigError, match=message):
        open_reward(reference)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 2.5], [1.0, 2.5]),
        (np.array([0.5, 1], np.float32), [0.5, 1.0]),
        (torch.tensor([0.5, 1.0], requires_grad=True), [0.5, 1.0]),
        ((np.float64(3), None), [3.0, None]),
    ],
)
def test_numbers_of_every_kind_are_rewards(values, wanted):
    assert call_function("f", lambda _: values, SAMPLES) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "f returned 1 rewards of 2 samples"),
        (None, "f failed: TypeError"),
        (["a", 1.0], "f returned 'a', not a number or None"),
        ([True, False], "f returned True, not a number or None"),
        (torch.ones(2, 3), r"f returned tensor.*, not a number or None"),
        ([{"score": 1.0}, 1.0], "f returned {'score': 1.0}, not a number or None"),
    ],
)
def test_other_values_are_an_error_that_names_the_function(values, message):
    with pytest.raises(RewardFunctionError, match=message):
        call_function("f", lambda _: values, SAMPLES)


def test_an_exception_names_the_function_and_its_line(module):
    module("def f(samples):\n    return [samples[9]]\n")
    message = r"f failed: IndexError: .*my_rewards.py, line 2"
    with pytest.raises(RewardFunctionError, match=message):
        call_function("f", open_reward("my_rewards:f"), SAMPLES)


def test_none_and_what_is_not_finite_are_failures_with_a_reason():
    values = [None, float("nan"), float("inf"), 0.5]
    rewards = GroupRewards({"f": lambda _: values})
    (scores,) = rewards.score([SAMPLES * 2])
    assert scores.values == [None, None, None, 0.5]
    assert scores.reasons[:3] == [
        "f: no reward",
        "f: nan is not a finite number",
        "f: inf is not a finite number",
    ]


def test_files_that_decide_a_judge_are_those_of_its_weights():
    assert reward_files("pickscore:weights") == [Path("weights")]
    assert reward_files("scripted:random") == reward_files("http://127.0.0.1:1") == []
    assert reward_files("tiny_judge")[0].is_dir()


def test_a_table_cannot_reward_new_samples():
    with pytest.raises(ConfigError, match="looks verdicts up by id"):
        GroupRewards({"table": TableJudge("table", {}, {})})
