"""Rows of pairs: what they stand for, and which of them cannot be used."""

import json
from pathlib import Path

import pytest

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.io.rows import read_examples
from unified_reward.pairs.preferences import read_pairs, trainable_pairs


PICTURES = (Task.IMAGE_GENERATION,)
CLIP = {
    "task": "video_generation",
    "chosen": {"video": "a.mp4"},
    "rejected": {"video": "b.mp4"},
    "candidates": [],
}
DROPPED = {"status": "dropped", "reason": "a tie", "chosen": None, "rejected": None}


def row(name, **changes):
    """A kept row of pictures as ``data/pairs.py`` writes it."""
    return {
        "id": name,
        "status": "kept",
        "reason": None,
        "task": "image_generation",
        "prompt": "a star",
        "context": [],
        "chosen": {"image": "a.png"},
        "rejected": {"image": "b.png"},
        "chosen_score": 4.0,
        "rejected_score": 2.5,
        "candidates": [
            {"image": "b.png", "score": 2.5, "side": "rejected", "reason": None},
            {"image": "a.png", "score": 4.0, "side": "chosen", "reason": None},
        ],
        "comparisons": [{"a": 0, "b": 1, "winner": "second", "probability": 0.2, "orders": None}],
        "judge_calls": 4,
        "judge": "tiny",
        "family": "compact",
        "strategy": "rank",
        "seed": 0,
    } | changes


def written(folder, *rows):
    path = folder / "pairs.jsonl"
    lines = [item if isinstance(item, str) else json.dumps(item) for item in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_kept_row_is_a_pair_whose_paths_start_at_the_file(tmp_path):
    (found,) = read_pairs(written(tmp_path, row("1")))
    chosen, rejected = Image(tmp_path / "a.png"), Image(tmp_path / "b.png")
    task = Task.IMAGE_GENERATION
    assert found.pair == PreferencePair("1", task, "a star", (), chosen, rejected, 4.0, 2.5)
    assert (found.row.line, found.row.id, found.status) == (1, "1", "kept")
    made = found.row.details
    assert (made.judge, made.family, made.strategy) == ("tiny", "compact", "rank")


def test_clips_frames_words_and_interleaved_parts_are_what_they_are(tmp_path):
    frames = {"video": ["1.png", "2.png"]}
    questions = {"task": "video_understanding", "context": [frames], "candidates": []}
    questions["chosen"] = {"text": "yes"}
    parts = [{"text": "first"}, {"video": "c.mp4"}]
    both = [
        row("1", **questions, rejected={"text": "no"}),
        row("2", chosen=parts, candidates=[{"parts": parts, "side": "chosen", "score": None}]),
    ]
    first, second = (item.pair for item in read_pairs(written(tmp_path, *both)))
    (visible,) = first.context
    assert isinstance(visible, Video)
    assert visible.source == (Image(tmp_path / "1.png"), Image(tmp_path / "2.png"))
    assert (first.chosen, first.rejected) == ("yes", "no")
    assert second.chosen == ("first", Video(tmp_path / "c.mp4"))
    *_, read = read_examples(tmp_path / "pairs.jsonl")
    assert read.content.candidates[0] == second.chosen


def test_dropped_and_failed_rows_keep_their_reasons_and_are_no_unusable_lines(tmp_path):
    none = {"chosen": None, "rejected": None, "chosen_score": None, "rejected_score": None}
    given = [
        row("1", status="dropped", reason="score 2 is not above 2", **none),
        row("2", status="failed", reason="b.png: the file is empty", **none),
        "no JSON",
        row("3"),
        row("4", status="failed", reason="its line", task=None, prompt=None, context=None, **none),
    ]
    found = list(read_pairs(written(tmp_path, *given)))
    assert [item.status for item in found] == ["dropped", "failed", "unusable", "kept", "failed"]
    assert [found[i].reason for i in (0, 1, 4)] == [
        "score 2 is not above 2",
        "b.png: the file is empty",
        "its line",
    ]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"status": "good"}, "line 2: status: Input should be 'generated', 'kept', 'dropped'"),
        ({"chosen": None}, "line 2: a row that is kept has a chosen and a rejected candidate"),
        ({"chosen": {"text": "a star"}}, "line 2: a candidate of image_generation is an image"),
        ({"task": "image_understanding"}, "line 2: a candidate of image_understanding is an ans"),
        ({"task": "image_editing"}, "line 2: image_editing needs the image or video it is"),
        ({"context": [{"text": "words"}]}, "line 2: context holds images and videos, not text"),
        ({"chosen": {"image": "a", "text": "b"}}, "line 2: a part has one of the keys"),
        (
            {"chosen": {"picture": "a.png"}},
            "line 2: chosen.picture: Extra inputs are not",
        ),
        ({"task": "poetry"}, "line 2: task: Input should be"),
        ({"task": None}, "line 2: task: Field required, unless the status is failed"),
        ({"chosen_score": "high"}, "line 2: chosen_score: 'high' is not a number"),
        ({"chosen": {"image": "b.png"}}, "line 2: chosen and rejected are the same candidate"),
        ({"id": "1"}, "line 2: duplicate id '1' (first on line 1)"),
    ],
)
def test_a_row_that_cannot_be_used_says_why_and_the_others_go_on(changes, result, tmp_path):
    path = written(tmp_path, row("1"), row("2", **changes), "", row("3"))
    first, second, third = read_pairs(path)
    assert (first.status, second.status, third.status) == ("kept", "unusable", "kept")
    assert second.pair is None
    assert second.reason.startswith(result)
    assert third.row.line == 4


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(DataError, match=r"gone.jsonl cannot be read: No such file"):
        list(read_pairs(Path("gone.jsonl")))


def test_what_a_policy_can_learn_from_is_read_and_the_rest_is_counted_and_told(tmp_path):
    """Dropped and failed rows were reported when the pairs were made."""
    path = written(
        tmp_path,
        row("1"),
        row("2", **DROPPED),
        row("3", status="failed", reason="b.png: the file is empty", chosen=None),
        row("4", **CLIP),
        row("5", rejected={"image": "a.png"}),
        "no JSON",
        row("6"),
        row("6"),
    )
    result = []
    pairs, rows = trainable_pairs(path, PICTURES, result.append)
    assert [item.id for item in pairs] == ["1", "6"]
    assert rows == {"kept": 2, "dropped": 1, "failed": 1, "unusable": 4}
    assert result[0] == "line 4: a pair of video_generation"
    assert result[1] == "line 5: chosen and rejected are the same candidate"
    assert result[2].startswith("line 6: ")
    assert result[3:] == ["line 8: duplicate id '6' (first on line 7)"]


def test_a_policy_may_have_several_tasks(tmp_path):
    both = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
    result = []
    pairs, rows = trainable_pairs(
        written(tmp_path, row("1"), row("2", **CLIP)), both, result.append
    )
    assert [item.task for item in pairs] == [*both]
    assert (rows, result) == ({"kept": 2}, [])


def test_a_pair_of_answers_alone_is_read_but_is_nothing_for_a_policy_of_images(tmp_path):
    answers = {"chosen": {"text": "yes"}, "rejected": {"text": "no"}}
    alone = row("2", task="image_understanding", context=[], candidates=[], **answers)
    about = row(
        "1", task="image_understanding", context=[{"image": "c.png"}], candidates=[], **answers
    )
    path = written(tmp_path, about, alone)
    assert [found.status for found in read_pairs(path)] == ["kept", "kept"]
    result = []
    pairs, rows = trainable_pairs(path, [Task.IMAGE_UNDERSTANDING], result.append)
    assert [pair.id for pair in pairs] == ["1"]
    assert rows == {"kept": 1, "unusable": 1}
    assert result == ["line 2: image_understanding needs the image or video it is about in context"]


def test_pairs_of_other_tasks_alone_are_an_error_that_names_both(tmp_path):
    questions = {"task": "image_understanding", "context": [{"image": "c.png"}], "candidates": []}
    answers = {"chosen": {"text": "yes"}, "rejected": {"text": "no"}}
    path = written(tmp_path, row("1", **CLIP), row("2", **questions, **answers), row("3", **CLIP))
    result = (
        r"the policy is for image_generation, and the pairs of \S*pairs.jsonl are of "
        "image_understanding, video_generation"
    )
    with pytest.raises(ConfigError, match=result):
        trainable_pairs(path, PICTURES, [].append)
    with pytest.raises(ConfigError, match="is for image_generation and image_editing, and"):
        trainable_pairs(path, (*PICTURES, Task.IMAGE_EDITING), [].append)


def vote(name, winner, *candidates):
    """A record of two candidates, such as a human vote."""
    parts = [{"image": part} for part in candidates]
    common = {"id": name, "task": "image_generation", "prompt": "a star"}
    return common | {"candidates": parts, "target": {"winner": winner}}


def test_a_vote_between_the_same_candidate_twice_is_unusable(tmp_path):
    path = written(tmp_path, vote("1", "first", "a.png", "a.png"), vote("2", "tie", "a.png", "b"))
    same, tie = read_pairs(path)
    assert (same.status, same.pair) == ("unusable", None)
    assert same.reason == "line 1: the target has the winner 'first', and both are the same"
    assert tie.status == "dropped"


def test_rows_without_a_preference_are_no_pairs_that_were_dropped(tmp_path):
    pools = written(tmp_path, vote("1", None, "a.png", "b.png"), row("2", **DROPPED))
    due = r"2 dropped; 1 without a preference: make pairs with `unified-reward pairs`"
    with pytest.raises(DataError, match=due):
        trainable_pairs(pools, PICTURES, [].append)


def test_a_file_without_a_pair_is_an_error_that_counts_its_rows(tmp_path):
    path = written(tmp_path, row("1", **DROPPED), row("2", rejected={"image": "a.png"}), "{}")
    with pytest.raises(DataError, match="no pair to learn from: 1 dropped, 2 unusable"):
        trainable_pairs(path, PICTURES, [].append)
    with pytest.raises(DataError, match="no pair to learn from: no rows"):
        trainable_pairs(written(tmp_path), PICTURES, [].append)
