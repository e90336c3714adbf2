"""Joint against single judges: the same items and steps, and contrasts derived by hand."""

from collections import Counter

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments import joint_learning as joint
from unified_reward_lab.microworld.items import TASKS, VIDEO_TASKS


TINY = OptimConfig(steps=16, batch_size=2, accumulate=1, lr=5e-4)


def lessons(name):
    (run,) = (one for one in joint._runs((0, 1)) if one.name == name)
    made = joint._TrainingSeries(run.parts, TINY)
    return Counter(made[i].sample.id for i in range(len(made)))


@pytest.mark.parametrize("world", joint.WORLDS)
def test_a_joint_judge_reads_once_what_the_single_ones_read_four_times(world):
    singles = Counter()
    for task in TASKS:
        seed = int(world == "apart" and task in VIDEO_TASKS)
        singles += lessons(f"{task}-{seed}")
    read = lessons(f"{world}-0")
    assert sum(read.values()) == TINY.steps * TINY.batch_size
    assert set(read.values()) == {1}
    assert singles == Counter(dict.fromkeys(read, 4))


def test_only_apart_do_videos_come_from_the_other_half_than_images():
    for run in joint._runs((0, 1, 2, 3)):
        of_videos = {part.half for part in run.parts if part.task in VIDEO_TASKS}
        of_images = {part.half for part in run.parts if part.task not in VIDEO_TASKS}
        if len(run.parts) > 1:
            assert (of_videos == of_images) == run.name.startswith("shared")
            assert len(of_videos) == len(of_images) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optim": OptimConfig(steps=12)}, "steps must be a multiple of 8"),
        ({"seeds": (0, 1, 2)}, r"seeds must come in pairs 2k and 2k \+ 1, given \(0, 1, 2\)"),
    ],
)
def test_settings_that_would_not_match_are_refused(tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message):
        joint.JointLearningStudy(tmp_path, **changed)


LABELS = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0] * 5
SAID = {"right": LABELS, "wrong": [1 - one for one in LABELS], "nothing": [None] * len(LABELS)}


def results(single, shared="right", apart="right"):
    """Thirty prompts a half, two seeds; every judge of a kind says the same."""
    by_run = {f"{task}-{seed}": single for task in TASKS for seed in (0, 1)}
    by_run |= {f"shared-{seed}": shared for seed in (0, 1)}
    by_run |= {f"apart-{seed}": apart for seed in (0, 1)}
    return {
        run: {
            "cells": {
                cell: [
                    (f"prompt {i}", *row)
                    for i, row in enumerate(zip(LABELS, SAID[kind], strict=True))
                ]
                for cell in CELLS
            }
        }
        for run, kind in by_run.items()
    }


@pytest.mark.parametrize(("single", "gain"), [("wrong", 1.0), ("right", 0.0), ("nothing", 1.0)])
def test_gain_is_the_difference_of_joint_and_single(single, gain):
    found = joint._contrast("video_generation.compare", results(single), (0, 1))
    for world in joint.WORLDS:
        assert found[world]["gain"] == {"value": gain, "ci95": [gain, gain], "n": 60}
    assert found["sharing"]["value"] == 0.0


def test_sharing_is_the_gain_that_a_world_apart_withholds():
    found = joint._contrast("image_generation.compare", results("wrong", apart="wrong"), (0, 1))
    assert found["shared"]["gain"]["value"] == 1.0
    assert found["apart"]["gain"]["value"] == 0.0
    assert found["sharing"]["value"] == 1.0


@pytest.mark.slow
def test_scores_are_contrasted_by_rank_correlation():
    found = joint._contrast(f"{Task.IMAGE_UNDERSTANDING}.score", results("wrong"), (0, 1))
    assert found["shared"]["joint"]["value"] == pytest.approx(1.0)
    assert found["shared"]["single"]["value"] == pytest.approx(-1.0)


@pytest.mark.slow
def test_judges_are_trained_once_and_then_only_contrasted(tmp_path, monkeypatch):
    config = joint.JointLearningStudy(
        tmp_path, optim=OptimConfig(steps=8, batch_size=2, accumulate=1), seeds=(0, 1), n=24
    )
    report = joint.run(config)
    assert set(report["cells"]) == set(CELLS)
    assert report["tokens"]["shared"] > 0
    assert "sharing" in joint.page(report)
    monkeypatch.setattr(joint, "train_judge", None)
    assert joint.run(config)["cells"] == report["cells"]
