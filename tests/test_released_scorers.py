"""Published scores of the released weights, where ``UNIFIED_REWARD_WEIGHTS`` points at them.

A folder for each scorer by its name (``imagereward``, ``hpsv2``, …), as `scorers check` wants it,
and ``fixtures`` with the pictures and clips of the upstream repositories that are not in the
shared data. Prompts are those of ``home``: run `templates import` with ``UNIFIED_REWARD_HOME``
naming that folder.
"""

import csv
import json
import os
from pathlib import Path

import pytest

import unified_reward as ur


WEIGHTS = os.environ.get("UNIFIED_REWARD_WEIGHTS", "")
pytestmark = pytest.mark.skipif(not WEIGHTS, reason="UNIFIED_REWARD_WEIGHTS names no weights")
REWARDS = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
ELEPHANT = (
    "Near the Elephant Gate village, they approach the haunted house at night. Rajiv feels "
    "anxious, but Bhavesh encourages him. As they reach the house, a mysterious sound in the air "
    "adds to the suspense."
)


@pytest.fixture(autouse=True)
def _imported_words(monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(Path(WEIGHTS) / "home"))


def scorer(name):
    folder = Path(WEIGHTS) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return ur.load(name, weights=folder)


def fixture(name, n_bytes):
    """A file of an upstream repository, told by its size."""
    file = Path(WEIGHTS) / "fixtures" / name
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    assert file.stat().st_size == n_bytes
    return file


def test_imagereward_gives_the_rewards_of_its_readme(shared):
    expected = json.loads((shared / "imagereward" / "expected_scores.json").read_text("utf-8"))
    judge = scorer("imagereward")
    pictures = [shared / "imagereward" / "assets" / "images" / f"{i}.webp" for i in (1, 2, 3, 4)]
    ranked = judge.rank(expected["prompt"], images=pictures)
    assert ranked.order == (0, 1, 2, 3)
    assert list(ranked.scores) == pytest.approx(REWARDS, abs=1e-3)


def test_hpsv2_gives_the_score_of_its_maintainer():
    picture = fixture("demo_image.jpg", 32_181)
    scored = scorer("hpsv2").score("A cat with two horns on its head", image=picture)
    assert scored.score.value == pytest.approx(0.2876, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "values", "within"),
    [
        ("videoscore", [2.297, 2.469, 2.906, 2.766, 2.516], 0.08),
        ("videoscore-v1.1", [2.328, 2.484, 2.562, 1.969, 2.594], 0.1),
        ("videoscore-qwen2-vl", [3.578, 3.594, 3.703, 3.156, 3.688], 0.1),
    ],
)
def test_videoscore_gives_the_five_scores_of_its_page(name, values, within):
    clip = fixture("video1.mp4", 284_615)
    scored = scorer(name).score(ELEPHANT, video=clip)
    assert [one.value for one in scored.aspects.values()] == pytest.approx(values, abs=within)


def test_videoreward_agrees_with_the_labels_of_its_examples(shared):
    judge = scorer("videoreward")
    folder = shared / "videoalign"
    with (folder / "example.csv").open(encoding="utf-8") as file:
        rows = {row["path_A"]: row for row in csv.DictReader(file)}.values()
    names = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment"}
    right = []
    for row in rows:
        clips = [folder / "videos" / Path(row[f"path_{x}"]).name for x in "AB"]
        told = judge.compare(row["prompt"], videos=clips)
        right += [
            (told.aspects[name] > 0.5) == (row[short] == "A")
            for short, name in names.items()
            if row[short] in ("A", "B")
        ]
    assert all(right)
