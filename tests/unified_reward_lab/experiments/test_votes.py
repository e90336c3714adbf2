"""Votes on what policies made: who wins, whose prompts, and a judge that goes on from them."""

import json

import numpy as np
import PIL.Image
import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Task
from unified_reward.io.rows import read_examples
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.judge import JudgeTraining
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import AlignedPolicy, ExamConfig, PreferenceConfig
from unified_reward_lab.experiments.alignment import AlignmentStudy
from unified_reward_lab.experiments.votes import VoteStudy, page, run, vote
from unified_reward_lab.microworld import mutate, policy_prompt, render
from unified_reward_lab.microworld.candidate_scenes import keyed_rng, random_scene_with_caption


DRAWING = Task.IMAGE_GENERATION
OPTIM = OptimConfig(steps=1, batch_size=2, accumulate=1, lr=1e-3, lora_rank=2)


@pytest.fixture
def folder(tmp_path):
    """Candidates of one prompt: two right ones, a wrong one, and unreadable noise."""
    prompt = policy_prompt(DRAWING, split="train", seed=5, index=0)
    scene, caption = random_scene_with_caption(keyed_rng(prompt.id), split="train", is_video=False)
    assert caption.text == prompt.prompt
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    right = render(scene, seed=1)
    wrong = render(mutate(scene, 2, np.random.default_rng(1)), seed=2)
    names = []
    for i, pixels in enumerate((right, noise, wrong, right)):
        names.append({"image": f"{i}.png"})
        PIL.Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    row = {"id": prompt.id, "status": "generated", "prompt": prompt.prompt, "candidates": names}
    failed = {"id": "another", "status": "failed", "candidates": []}
    (tmp_path / "candidates.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(failed)}\n")
    return tmp_path


def test_the_better_candidate_wins_in_either_place_and_noise_loses(folder):
    (folder / "votes.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in vote(folder, DRAWING, 5, 20))
    )
    records = [row.content for row in read_examples(folder / "votes.jsonl")]
    assert all(isinstance(entry, Example) for entry in records)
    order = {"0.png": 2, "3.png": 2, "2.png": 1, "1.png": 0}
    met = set()
    for entry in records:
        oracle_scores = [order[medium.source.name] for medium in entry.sample.candidates]
        assert entry.target.winner == ("first" if oracle_scores[0] > oracle_scores[1] else "second")
        met.add(tuple(sorted(oracle_scores)))
    assert len(records) == 5, "two equals are not voted on"
    assert met == {(0, 1), (0, 2), (1, 2)}
    assert {entry.target.winner for entry in records} == {"first", "second"}


def test_no_more_comparisons_of_a_prompt_than_wanted_and_always_the_same(folder):
    some = [*vote(folder, DRAWING, 5, 2)]
    assert len(some) == 2
    assert some == [*vote(folder, DRAWING, 5, 20)][:2]


def test_votes_and_pairs_on_the_same_prompts_are_refused():
    with pytest.raises(ConfigError, match="must have different training prompts"):
        VoteStudy(seeds={DRAWING: (10, 3)})


@pytest.mark.slow
def test_a_judge_goes_on_from_votes_and_is_examined_on_other_prompts(tmp_path):
    policies = {DRAWING: AlignedPolicy("tiny_image", diffusion=DiffusionDPO(OPTIM))}
    study = AlignmentStudy(
        tmp_path / "study",
        policies=policies,
        preferences=PreferenceConfig(prompts=6, n=4),
        exam=ExamConfig(n=4),
        seeds=(0,),
    )
    optim = OptimConfig(steps=2, batch_size=2, accumulate=1, lr=1e-3)
    training = JudgeTraining(optim, base="tiny_scalar", head="scalar", family="compact", frames=4)
    config = VoteStudy(
        tmp_path / "votes",
        seeds={DRAWING: (10,)},
        prompts=6,
        training=training,
        judges={"scalar": "tiny_scalar"},
        study=study,
    )
    report = run(config)
    assert 0 < report["votes"][DRAWING] <= 36
    assert {*report["judges"]} == {"scalar", "voted"}
    for entry in report["judges"].values():
        assert 0 < entry[DRAWING.value]["n"] <= 6
    assert "voted" in page(report)
    weights = tmp_path / "votes" / "judge" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(config) == report
    assert weights.stat().st_mtime_ns == before, "what is made is not made again"
