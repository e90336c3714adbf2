"""Candidates and pairs of the shipped policies, and what these policies are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unified_reward.pairs.candidate_files import read_rows
from unified_reward import policies
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.pairs.strategies import Strategy
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import (
    AlignedPolicy,
    ExamConfig,
    PreferenceConfig,
    examine_before_and_after,
    write_candidates,
    write_pairs,
)
from unified_reward_lab.microworld import policy_prompt


HOW = PreferenceConfig(prompts=3, n=4, seed=5)
OURS = {
    Task.IMAGE_UNDERSTANDING: "tiny_vlm",
    Task.IMAGE_GENERATION: "tiny_image",
    Task.VIDEO_GENERATION: "tiny_video",
}
SHIPPED = [*OURS.values()]
DRAWING = SHIPPED[1:]
MOST_BYTES = 10 * 2**20
OPTIM = OptimConfig(steps=1)


@pytest.fixture(scope="module", params=OURS, ids=str)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def sampled(task, tmp_path_factory):
    """The folder of candidates of a task, and how many were made."""
    folder = tmp_path_factory.mktemp("drawn")
    return folder, write_candidates(OURS[task], task, HOW, folder)


def test_every_prompt_of_the_training_split_gets_its_candidates(task, sampled):
    folder, counts = sampled
    rows = read_rows(folder / "candidates.jsonl")
    assert counts == {"generated": 3}
    requests = [policy_prompt(task, split="train", seed=5, index=i) for i in range(3)]
    assert [(row["id"], row["prompt"]) for row in rows] == [
        (entry.id, entry.prompt) for entry in requests
    ]
    assert [len(row["candidates"]) for row in rows] == [4, 4, 4]
    assert {row["policy"] for row in rows} == {OURS[task]}
    kind = {"tiny_vlm": "text", "tiny_image": "image", "tiny_video": "video"}[OURS[task]]
    assert {key for row in rows for entry in row["candidates"] for key in entry} == {kind}


def test_a_second_call_makes_nothing_new(task, sampled):
    folder, counts = sampled
    media = {file: file.stat().st_mtime_ns for file in (folder / "media").iterdir()}
    written = (folder / "candidates.jsonl").read_bytes()
    results = []
    assert write_candidates(OURS[task], task, HOW, folder, progress=results.append) == counts
    assert sum(results) == 0
    assert (folder / "candidates.jsonl").read_bytes() == written
    assert {file: file.stat().st_mtime_ns for file in (folder / "media").iterdir()} == media


def test_a_run_that_was_stopped_goes_on_to_the_same_rows(task, sampled, tmp_path):
    folder, counts = sampled
    results = []
    write_candidates(OURS[task], task, replace(HOW, prompts=1), tmp_path)
    assert write_candidates(OURS[task], task, HOW, tmp_path, progress=results.append) == counts
    assert sum(results) == 2
    name = "candidates.jsonl"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_candidates_of_another_seed_do_not_join_a_folder(task, sampled):
    with pytest.raises(ConfigError, match="seed was 5 and is 6"):
        write_candidates(OURS[task], task, replace(HOW, seed=6), sampled[0])


@pytest.mark.parametrize("strategy", [Strategy.RANDOM, Strategy.RANK_AND_SIFT])
def test_pairs_are_made_of_the_candidates_and_a_second_call_makes_none(sampled, tmp_path, strategy):
    config, out = replace(HOW.pairing, strategy=strategy), sampled[0] / f"{strategy.value}.jsonl"
    source, results = sampled[0] / "candidates.jsonl", []
    counts = write_pairs(source, "tiny_judge", config, out, results.append)
    written = out.read_bytes()
    rows = read_rows(out)
    assert sum(counts.values()) == sum(results) == 3
    assert counts["kept"] >= 1
    for row in rows:
        if row["status"] == "kept":
            media = [{key: entry[key] for key in row["chosen"]} for entry in row["candidates"]]
            assert {json.dumps(row["chosen"]), json.dumps(row["rejected"])} <= set(
                map(json.dumps, media)
            )
            assert row["chosen"] != row["rejected"]
    assert write_pairs(source, "tiny_judge", config, out, results.append) == counts
    assert out.read_bytes() == written
    assert sum(results) == 3


def test_a_policy_of_another_task_fails_on_all_prompts_and_that_is_told(tmp_path):
    with pytest.raises(
        DataError, match=r"candidates\.jsonl has no row with status generated: 3 failed"
    ):
        write_candidates("tiny_image", Task.IMAGE_UNDERSTANDING, HOW, tmp_path)
    assert "is for image_generation" in read_rows(tmp_path / "candidates.jsonl")[0]["reason"]


def test_a_judge_that_prefers_nothing_leaves_no_pair_and_that_is_told(sampled, tmp_path):
    source, config = sampled[0] / "candidates.jsonl", replace(HOW.pairing, strategy=Strategy.RANK)
    with pytest.raises(DataError, match=r"pairs\.jsonl has no row with status kept: \d dropped"):
        write_pairs(source, "scripted:tie", config, tmp_path / "pairs.jsonl")


@pytest.mark.slow
def test_the_same_policy_before_and_after_gains_exactly_nothing(task):
    name = OURS[task]
    results = examine_before_and_after(
        name, checkpoint_path(name), task, "tiny_judge", ExamConfig(n=4, seed=1)
    )
    assert results["before"] == results["after"]
    assert results["gain"] == {"value": 0.0, "ci95": [0.0, 0.0], "n": 4}
    assert results["gap_closed"] in (0, None)


@pytest.mark.parametrize(
    "kinds", [{}, {"vlm": VLMDPO(OPTIM), "diffusion": DiffusionDPO(OPTIM)}], ids=["none", "both"]
)
def test_a_policy_is_aligned_as_just_one_kind(kinds):
    with pytest.raises(ConfigError, match="dpo takes either vlm or diffusion"):
        AlignedPolicy("tiny_vlm", **kinds).dpo(Path("pairs.jsonl"))


@pytest.mark.parametrize("task", [Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING])
def test_the_shipped_speaker_answers_in_words_of_its_own_seed(task):
    policy = policies.load(checkpoint_path("tiny_vlm"), device="cpu")
    requests = policy_prompt(task, split="test", seed=0, index=0)
    entry, other, again = policy.sample(requests.prompt, requests.context, [1, 2, 1])
    assert entry == again
    assert all(isinstance(text, str) and text for text in (entry, other))
    assert task in policy.tasks


@pytest.mark.parametrize("name", DRAWING)
def test_a_shipped_generator_draws_64_pixels_a_side_in_few_steps_without_guidance(name):
    policy = policies.load(checkpoint_path(name), device="cpu")
    assert policy.options.steps <= 8
    assert policy.options.guidance <= 1
    (task,) = policy.tasks
    requests = policy_prompt(task, split="test", seed=0, index=0)
    entry, other, again = (entry.source for entry in policy.sample(requests.prompt, (), [1, 2, 1]))
    frames = () if task is Task.IMAGE_GENERATION else (8,)
    assert entry.shape == (*frames, 64, 64, 3)
    assert entry.dtype == np.uint8
    assert np.array_equal(entry, again)
    assert not np.array_equal(entry, other)


@pytest.mark.slow
def test_the_shipped_policies_err_but_know_something():
    """So that there is something to align: neither at chance nor at the top."""
    for task, name in OURS.items():
        results = examine_before_and_after(
            name, checkpoint_path(name), task, "tiny_judge", ExamConfig(n=40, seed=1)
        )
        assert 0.3 < results["before"]["oracle"]["value"] < 0.95


def test_the_shipped_policies_are_small_and_hold_nothing_pickled():
    files = [
        file for name in SHIPPED for file in checkpoint_path(name).rglob("*") if file.is_file()
    ]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    kinds = {file.suffix for file in files}
    assert kinds <= {".safetensors", ".json", ".txt", ".jinja", ".model"}
    assert ".safetensors" in kinds
