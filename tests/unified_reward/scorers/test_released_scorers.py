"""Published scores of the released weights, where ``UNIFIED_REWARD_WEIGHTS`` points at them.

A folder for each scorer by its name (``imagereward``, ``hpsv2``, …), as `scorers check` wants it,
and ``fixtures`` with the files of the upstream repositories that are not in the shared data:
``video1.txt`` is the prompt on VideoScore's page, ``lift`` the ``demo`` of LiFT. Prompts are those
of ``home``: run `templates import` with ``UNIFIED_REWARD_HOME`` naming that folder.
"""

import csv
import json
import os
from pathlib import Path

import pytest

import unified_reward as ur
from unified_reward.scorers.checklists import visionreward
from unified_reward.scorers.visionreward_video import worded


WEIGHTS = os.environ.get("UNIFIED_REWARD_WEIGHTS", "")
pytestmark = pytest.mark.skipif(not WEIGHTS, reason="UNIFIED_REWARD_WEIGHTS names no weights")
QUESTIONS = ("semantic consistency", "fidelity issues", "motion issues")
GRADES = {"Good": 0.9, "Normal": 0.2, "Bad": 0.05}
REWARDS = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]


@pytest.fixture(autouse=True)
def _imported_words(monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(Path(WEIGHTS) / "home"))


def scorer(name):
    folder = Path(WEIGHTS) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return ur.open_judge(f"{name}:{folder}")


def fixture(name, n_bytes):
    """A file of an upstream repository, found by its size."""
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
    prompt = fixture("video1.txt", 199).read_text("utf-8")
    scored = scorer(name).score(prompt, video=clip)
    assert [item.value for item in scored.aspects.values()] == pytest.approx(values, abs=within)


def test_lift_gives_the_grades_of_its_demo():
    samples = json.loads(fixture("lift/test.json", 1_122).read_text("utf-8"))
    result = json.loads(fixture("lift/critic_output_13b.json", 1_706).read_text("utf-8"))
    judge = scorer("lift-critic-13b")
    for row, answers, n_bytes in zip(samples, result, (620_106, 325_384), strict=True):
        clip = fixture(f"lift/videos/{row['video']}", n_bytes)
        aspects = judge.score(row["caption"], video=clip).aspects
        grades = [answers[name].split(".")[0] for name in QUESTIONS]
        assert [item.value for item in aspects.values()] == [GRADES[grade] for grade in grades]


GOLDEN_IDS = [
    (
        [("user", "Hi"), ("assistant", "Yes")],
        [1, 92543, 1008, 364, 13195, 92542, 364, 92543, 525, 11353, 364, 9583, 92542, 2, 92527],
    ),
    (
        [("user", "What is 2+2?"), ("assistant", "It is 4.")],
        [
            *(1, 92543, 1008, 364, 3993, 505, 262, 314, 342, 314, 345, 92542, 364, 92543, 525),
            *(11353, 364, 2286, 505, 262, 319, 281, 92542, 2, 92527),
        ],
    ),
]
"""Tokens of conversations, by the released tokenizer; 364 is a newline."""
IXC = ("ixc-2.5-reward", "ixc-2.5-reward-newline")


@pytest.mark.parametrize("name", IXC)
@pytest.mark.parametrize(("turns", "ids"), GOLDEN_IDS)
def test_ixc_reads_a_conversation_as_these_tokens(turns, ids, name):
    folder = Path(WEIGHTS) / "ixc-2.5-reward"
    if not (folder / "tokenizer.model").is_file():
        pytest.skip(f"{folder} has no tokenizer.model")
    from unified_reward.scorers import ixc

    kind = {"ixc-2.5-reward": ixc.IXCReward, "ixc-2.5-reward-newline": ixc.IXCRewardNewline}[name]
    (_, question), (_, answer) = turns
    text = ixc.conversation(question, answer, 0, newline=kind.newline)
    wanted = [*ids[:-2], 364, *ids[-2:]] if kind.newline else ids
    assert ixc.token_ids(text, ixc.tokenizer(folder)) == [wanted]


def ixc_differences(name):
    """Distances from the rewards of the README's two chats about its picture.

    ``ixc/chats.json`` holds its two chats, each a list of messages with ``role`` and ``content``.
    """
    folder = Path(WEIGHTS) / "ixc-2.5-reward"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    picture = Path(WEIGHTS) / "fixtures" / "ixc" / "cars1.jpg"
    chats_file = picture.with_name("chats.json")
    if not (picture.is_file() and chats_file.is_file()):
        pytest.skip(f"{picture} or {chats_file} is not there")
    chats = json.loads(chats_file.read_text("utf-8"))
    question = chats[0][0]["content"]
    answers = [chat[1]["content"] for chat in chats]
    judge = ur.open_judge(f"{name}:{folder}", dtype="float16")
    values = [judge.score(question, answer=answer, image=picture).score.value for answer in answers]
    return [abs(x - y) for x, y in zip(values, (5.76171875, -2.845703125), strict=True)]


def test_ixc_gives_the_two_rewards_of_its_readme_without_the_newline():
    default, other = (max(ixc_differences(name)) for name in IXC)
    assert default < 0.03, f"with the newline kept it is off by {other}"


def test_videoreward_agrees_with_the_labels_of_its_examples(shared):
    judge = scorer("videoreward")
    folder = shared / "videoalign"
    with (folder / "example.csv").open(encoding="utf-8") as file:
        rows = {row["path_A"]: row for row in csv.DictReader(file)}.values()
    names = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment"}
    right = []
    for row in rows:
        clips = [folder / "videos" / Path(row[f"path_{x}"]).name for x in "AB"]
        result = judge.compare(row["prompt"], videos=clips)
        right += [
            (result.aspects[name] > 0.5) == (row[short] == "A")
            for short, name in names.items()
            if row[short] in ("A", "B")
        ]
    assert all(right)


def test_visionreward_video_reads_its_questions_as_the_published_run_and_answers_yes_or_no():
    """Tails of questions 5 and 6; -0.2165 is a video whose answers are all taken for no."""
    judge = scorer("visionreward-video")
    texts = worded(visionreward(judge.card), "two elephants")
    tails = {
        5: [14924, 25, 12838, 279, 6382, 7351, 617, 912, 8196, 41859, 5380, 22559, 25],
        6: [14924, 25, 8886, 279, 8146, 539, 12207, 653, 266, 70178, 5380, 22559, 25],
    }
    for number, ids in tails.items():
        assert judge.tokenizer.encode(texts[number], add_special_tokens=False).ids == ids
    scored = judge.score("two elephants", video=fixture("visionreward/test1.mp4", 623_608))
    assert -0.2164 < scored.score.value < 0.2164


def test_vqascore_prefers_the_caption_of_the_picture():
    picture = fixture("visionreward/test1.jpg", 154_037)
    judge = scorer("vqascore")
    right, wrong = (
        judge.score(text, image=picture).score.value
        for text in ("a portrait of a girl with autumn leaves", "a truck on a snowy road")
    )
    assert right > 0.5 > wrong


def test_visionreward_image_answers_yes_and_no():
    """Nobody has published a score; -2.162 + 2.354 * VQAScore is an image of 30 answers of no."""
    picture = fixture("visionreward/test1.jpg", 154_037)
    judge = scorer("visionreward-image")
    scored = judge.score("a portrait of a girl with autumn leaves", image=picture)
    answers = [item.value for item in scored.aspects.values()][:30]
    assert {*answers} == {0.0, 1.0}
    assert answers[1] == 1.0, "a face can be seen"
    assert "'yes'" in scored.text
