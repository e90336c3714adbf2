"""Files, folders and prompts of ``score``, ``rank`` and ``compare``."""

import json

import pytest

from unified_reward.cli.inputs import read_inputs
from unified_reward.core.samples import Image, Task, Video


JUDGE = ("--judge", "scripted:tie")


def rows(text):
    return {row["id"]: row for row in map(json.loads, text.splitlines())}


def name_prompts(files, texts, name="metadata.jsonl"):
    lines = [json.dumps({"file_name": file, "text": text}) for file, text in texts.items()]
    (files / name).write_text("\n".join(lines))


def test_images_and_videos_of_a_folder_are_scored_each_as_its_kind(cli, files):
    (files / "notes.doc").write_bytes(b"no medium\0")
    code, out, err = cli("score", ".", "--prompt", "a cat", "--json", *JUDGE)
    assert (code, err) == (1, "")
    found = rows(out)
    assert [*found] == ["a.mp4", "a.png", "b.mp4", "b.png", "c.png", "notes.doc"]
    assert found["a.png"]["scale"] == [1, 5]
    assert found["b.mp4"]["scale"] == [1, 10]
    assert (
        found["notes.doc"]["reason"] == "notes.doc: neither an image nor a video that can be read"
    )
    inputs = read_inputs("a cat", files=["."], answers=[])
    assert inputs.questions[0] == (Task.VIDEO_GENERATION, "a cat", ())
    assert inputs.questions[1] == (Task.IMAGE_GENERATION, "a cat", ())
    assert isinstance(inputs.candidates[0], Video)
    assert isinstance(inputs.candidates[1], Image)


@pytest.mark.parametrize("command", ["rank", "compare"])
def test_images_are_not_compared_with_videos(cli, files, command):
    code, out, err = cli(command, "a.png", "a.mp4", "--prompt", "a cat", *JUDGE)
    assert (code, out) == (2, "")
    assert "cannot be judged against each other" in err
    assert "unified-reward score" in err


def test_an_edit_has_no_videos(cli, files):
    code, _, err = cli("score", "a.png", "a.mp4", "--source", "b.png", "--prompt", "x", *JUDGE)
    assert code == 2
    assert "give it with image files" in err


def test_files_have_the_prompts_of_their_folder(files):
    name_prompts(files, {"a.png": "a cat", "b.png": "a dog", "a.mp4": "a cow"})
    for name in ("c.png", "b.mp4"):
        (files / name).unlink()
    inputs = read_inputs(None, files=["."], answers=[])
    assert dict(zip(inputs.names, (q.prompt for q in inputs.questions), strict=True)) == {
        "a.mp4": "a cow",
        "a.png": "a cat",
        "b.png": "a dog",
    }
    assert inputs.questions[0].task is Task.VIDEO_GENERATION
    given = read_inputs("all", files=["."], answers=[])
    assert {question.prompt for question in given.questions} == {"all"}


def test_a_file_without_a_row_needs_a_prompt(cli, files):
    name_prompts(files, {"a.png": "a cat"})
    code, out, err = cli("score", ".", *JUDGE)
    assert (code, out) == (2, "")
    assert "Missing option '--prompt', the text that a.mp4 was made for" in err


def test_a_ranking_is_for_one_prompt(cli, files):
    (files / "cats").mkdir()
    for name in ("a.png", "b.png"):
        (files / name).rename(files / "cats" / name)
    name_prompts(files / "cats", {"a.png": "a cat", "b.png": "a cat"})
    code, out, _ = cli("rank", "cats", "--json", *JUDGE)
    assert (code, json.loads(out)["id"]) == (0, "a cat")
    name_prompts(files / "cats", {"a.png": "a cat", "b.png": "a dog"})
    code, _, err = cli("rank", "cats", *JUDGE)
    assert code == 2
    assert "2 prompts in their metadata" in err


@pytest.mark.parametrize("prompt", ["", " \n"])
@pytest.mark.parametrize(
    "given",
    [
        ("score", "a.png"),
        ("rank", "a.png", "b.png"),
        ("compare", "a.png", "b.png"),
        ("score", "--image", "a.png", "--answer", "a cat"),
    ],
)
def test_an_empty_prompt_is_refused(cli, files, given, prompt):
    code, out, err = cli(*given, "--prompt", prompt, *JUDGE)
    assert (code, out) == (2, "")
    assert "--prompt is empty" in err
