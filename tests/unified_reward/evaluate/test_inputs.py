"""Outputs of models: folders, rows, earlier runs, and all that may not fit together."""

import json
import shutil

import pytest

from tests.unified_reward.evaluate.files import clip, picture, pictures, write_prompts, write_rows
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.evaluate.inputs import read_models
from unified_reward.evaluate.output_rows import write_outputs
from unified_reward.evaluate.sampling import PolicySampling


TEXTS = ("a cat", "a dog", "a car")


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.txt", *TEXTS)


def read(*inputs, **options):
    return read_models([str(item) for item in inputs], **options)


def files(outputs, model):
    """Names of the files of a model, by prompt."""
    return {
        key: [part.source.name for part in parts] for key, parts in outputs.outputs[model].items()
    }


def listed(outputs, kind):
    return [(entry.model, entry.prompt) for entry in outputs.missing if entry.kind == kind]


def rows_of(folder, *texts, first=0, **more):
    """Rows of candidates with ids ``p0``, ``p1``, …, and their pictures."""
    rows = []
    for n, text in enumerate(texts):
        picture(folder / "media" / f"{n}.png", first + n)
        row = {"id": f"p{n}", "task": "image_generation", "prompt": text}
        rows.append(row | {"candidates": [{"image": f"media/{n}.png"}]} | more)
    return write_rows(folder / "candidates.jsonl", *rows)


def test_folders_are_matched_to_a_file_of_prompts(tmp_path, prompts):
    pictures(tmp_path / "old", "0.png", "1.png", "2.png")
    pictures(tmp_path / "new", "0001.jpg", "0002.webp", "0003.png", first=10)
    found = read(tmp_path / "old", f"b={tmp_path / 'new'}", prompts=prompts)
    assert found.models == ["old", "b"]
    assert [(key, p.prompt, p.task) for key, p in found.prompts.items()] == [
        (str(n), text, Task.IMAGE_GENERATION) for n, text in enumerate(TEXTS)
    ]
    assert files(found, "b") == {"0": ["0001.jpg"], "1": ["0002.webp"], "2": ["0003.png"]}
    assert found.outputs["old"]["1"] == (Image(tmp_path / "old/1.png"),)
    assert found.missing == ()


def test_paths_and_texts_name_the_same_models_and_prompts(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png", "2.png")
    by_paths = read_models([tmp_path / "a"], prompts)
    assert read_models([f"{tmp_path}/a"], str(prompts)) == by_paths
    assert by_paths.models == ["a"]


def test_a_missing_file_of_a_model_is_listed_and_moves_nothing(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png", "2.png")
    pictures(tmp_path / "b", "1.png", "2.png", first=10)
    found = read(tmp_path / "a", tmp_path / "b", prompts=prompts)
    assert files(found, "b") == {"1": ["1.png"], "2": ["2.png"]}
    assert listed(found, "missing") == [("b", "0")]


def test_different_numbers_of_seeds_are_noted(tmp_path, prompts):
    pictures(tmp_path / "a", *(f"{n}_{k}.png" for n in range(3) for k in range(2)))
    pictures(tmp_path / "b", "0.png", "1_0.png", "1_1.png", "2.png", first=10)
    found = read(tmp_path / "a", tmp_path / "b", prompts=prompts)
    (note,) = found.notes
    assert "a has 2 for 3 prompts; b has 1 for 2 prompts and 2 for 1 prompt;" in note
    assert found.missing == ()


def test_files_without_a_prompt_are_listed(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png", "2.png", "9.png", "cover.png")
    found = read(tmp_path / "a", prompts=prompts)
    assert listed(found, "unmatched") == [("a", "9.png"), ("a", "cover.png")]


def test_a_copy_of_a_file_of_the_prompt_is_left_out(tmp_path, prompts):
    pictures(tmp_path / "a", "0_0.png", "1_0.png", "2_0.png")
    shutil.copy(tmp_path / "a/0_0.png", tmp_path / "a/0_1.png")
    found = read(tmp_path / "a", prompts=prompts)
    assert files(found, "a")["0"] == ["0_0.png"]
    (entry,) = found.missing
    assert (entry.prompt, entry.kind) == ("0", "duplicate")
    assert "0_1.png is a copy of" in entry.reason


def test_equal_files_of_models_and_of_prompts_are_noted_and_kept(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png", "2.png")
    pictures(tmp_path / "b", "0.png", first=0)
    pictures(tmp_path / "b", "1.png", "2.png", first=9)
    shutil.copy(tmp_path / "b/1.png", tmp_path / "b/2.png")
    found = read(tmp_path / "a", tmp_path / "b", prompts=prompts)
    assert found.missing == ()
    assert found.notes == (
        "1 file of a is byte for byte a file of b, such as of prompt '0'",
        "b: 1 file stands under several prompts, such as '1' and '2'",
    )


def test_a_file_that_cannot_be_opened_stays_for_the_judge(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png")
    (tmp_path / "a/2.png").write_bytes(b"no picture")
    found = read(tmp_path / "a", prompts=prompts)
    assert found.outputs["a"]["2"] == (Image(tmp_path / "a/2.png"),)
    assert found.missing == ()


def test_videos_are_known_by_their_content(tmp_path, prompts):
    clip(tmp_path / "a/0.mp4", 0)
    clip(tmp_path / "a/1.mp4", 90).rename(tmp_path / "a/1.png")
    (tmp_path / "a/2.mp4").write_bytes(b"torn")
    found = read(tmp_path / "a", prompts=prompts)
    assert {prompt.task for prompt in found.prompts.values()} == {Task.VIDEO_GENERATION}
    assert [type(parts[0]) for parts in found.outputs["a"].values()] == [Video, Video, Video]


def test_images_and_videos_are_not_mixed(tmp_path, prompts):
    pictures(tmp_path / "images", "0.png", "1.png", "2.png")
    clip(tmp_path / "videos/0.mp4")
    with pytest.raises(DataError, match="images has images and videos has videos"):
        read(tmp_path / "images", tmp_path / "videos", prompts=prompts)
    clip(tmp_path / "images/0_1.mp4")
    with pytest.raises(DataError, match=r"images has images and videos, such as .*0_1.mp4"):
        read(tmp_path / "images", prompts=prompts)


def test_prompts_with_a_source_image_are_edits(tmp_path):
    rows = [{"prompt": "make it red", "source_image": "in.png"}]
    pictures(tmp_path / "a", "0.png")
    found = read(tmp_path / "a", prompts=write_rows(tmp_path / "edits.jsonl", *rows))
    assert found.prompts["0"].task is Task.IMAGE_EDITING
    assert found.prompts["0"].context == (Image(tmp_path / "in.png"),)


def test_the_photograph_of_a_caption_is_no_source_of_an_edit(tmp_path):
    pictures(tmp_path / "a", "0.png")
    path = write_rows(tmp_path / "captions.jsonl", {"caption": "a cat", "image": "photo.jpg"})
    found = read(tmp_path / "a", prompts=path)
    assert found.prompts["0"].task is Task.IMAGE_GENERATION
    assert found.prompts["0"].context == ()
    assert "source_image" in found.notes[0]


def test_a_task_in_the_file_must_fit_the_outputs(tmp_path):
    pictures(tmp_path / "a", "0.png")
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "a cat", "task": "video_generation"})
    with pytest.raises(DataError, match="'0' has the task video_generation, and the outputs are"):
        read(tmp_path / "a", prompts=path)


def test_rows_of_candidates_bring_their_prompts(tmp_path):
    a = rows_of(tmp_path / "old", *TEXTS, tags={"category": "animals; things"})
    b = rows_of(tmp_path / "new", *TEXTS[:2], first=9)
    found = read(a, b.parent)
    assert found.models == ["old", "new"]
    assert list(found.prompts) == ["p0", "p1", "p2"]
    assert found.categories("p0") == ["animals", "things"]
    assert listed(found, "missing") == [("new", "p2")]


def test_prompts_of_rows_that_do_not_match_are_refused(tmp_path):
    a, b = rows_of(tmp_path / "old", "a cat"), rows_of(tmp_path / "new", "a cow", first=9)
    with pytest.raises(DataError, match="'p0' is 'a cat' for old, and 'a cow' for new"):
        read(a, b)
    path = write_rows(tmp_path / "p.jsonl", {"id": "p0", "prompt": "a hen"})
    with pytest.raises(DataError, match="'p0' is 'a hen' for the file of prompts"):
        read(a, prompts=path)


def test_edits_of_other_images_under_one_id_are_refused(tmp_path):
    sources = [picture(tmp_path / f"in{n}.png", n) for n in (0, 1)]
    inputs = [
        rows_of(tmp_path / f"m{n}", "red", task="image_editing", context=[{"image": str(source)}])
        for n, source in enumerate(sources)
    ]
    with pytest.raises(DataError, match="'p0' is about other media for m0 than for m1"):
        read(*inputs)


def test_rows_with_ids_of_their_own_are_matched_by_text(tmp_path):
    prompts = write_prompts(tmp_path / "p.txt", "a dog", "a cat", "a cat")
    path = rows_of(tmp_path / "a", "a cat", "a cat", "a dog", "a cow")
    found = read(path, prompts=prompts)
    assert files(found, "a") == {"0": ["2.png"], "1": ["0.png"], "2": ["1.png"]}
    assert listed(found, "unmatched") == [("a", "p3")]


def test_numbers_as_ids_of_rows_are_checked_by_text(tmp_path, prompts):
    rows = [{"id": n, "prompt": text} for n, text in enumerate(reversed(TEXTS))]
    rows = [row | {"candidates": [{"image": f"{row['id']}.png"}]} for row in rows]
    found = read(write_rows(tmp_path / "a.jsonl", *rows), prompts=prompts)
    assert files(found, "a") == {"0": ["2.png"], "1": ["1.png"], "2": ["0.png"]}


def test_rows_that_failed_or_cannot_be_read_are_listed_with_their_reason(tmp_path):
    path = rows_of(tmp_path / "a", "a cat")
    failed = {"id": "q", "status": "failed", "reason": "out of memory", "task": "image_generation"}
    failed |= {"prompt": "a dog", "candidates": []}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(failed) + "\n{torn")
    found = read(path)
    assert list(found.prompts) == ["p0", "q"]
    assert [(e.prompt, e.kind) for e in found.missing] == [
        ("line 3", "unmatched"),
        ("q", "missing"),
    ]
    assert "out of memory" in found.missing[1].reason


def test_answers_are_about_the_image_of_their_prompt(tmp_path):
    prompts = write_rows(
        tmp_path / "q.jsonl", {"id": "q", "question": "how many?", "image": "x.png"}
    )
    for model, answers in (("a", ["two", "two"]), ("b", ["three"])):
        row = {"id": "q", "prompt": "how many?", "candidates": [{"text": text} for text in answers]}
        write_rows(tmp_path / f"{model}.jsonl", row)
    found = read(tmp_path / "a.jsonl", tmp_path / "b.jsonl", prompts=prompts)
    assert found.prompts["q"].task is Task.IMAGE_UNDERSTANDING
    assert found.prompts["q"].context == (Image(tmp_path / "x.png"),)
    assert found.outputs["a"]["q"] == ("two", "two")
    assert listed(found, "duplicate") == []


def test_a_folder_of_hpdv2_has_a_folder_a_style(tmp_path):
    for style in ("anime", "photo"):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} 0", f"{style} 1"]), "utf-8")
    names = [f"{style}/0000{n}.jpg" for style in ("anime", "photo") for n in (0, 1)]
    found = read(pictures(tmp_path / "images" / "a", *names), prompts=tmp_path)
    assert {key: parts[0].source for key, parts in found.outputs["a"].items()} == {
        name.removesuffix(".jpg"): tmp_path / "images" / "a" / name for name in names
    }
    assert found.categories("photo/00001") == ["photo"]
    assert found.missing == ()


def geneval(folder, *texts, first=0):
    for n, text in enumerate(texts):
        write_rows(folder / f"{n:05}/metadata.jsonl", {"tag": "colors", "prompt": text})
        pictures(folder / f"{n:05}/samples", "0000.png", "0001.png", first=first + 2 * n)
        picture(folder / f"{n:05}/grid.png", 99)
    return folder


def test_a_folder_of_geneval_needs_no_file_of_prompts(tmp_path):
    found = read(geneval(tmp_path / "a", *TEXTS), geneval(tmp_path / "b", *TEXTS[:2], first=9))
    assert [prompt.prompt for prompt in found.prompts.values()] == list(TEXTS)
    assert files(found, "a")["00001"] == ["0000.png", "0001.png"]
    assert found.categories("00000") == ["colors"]
    assert listed(found, "missing") == [("b", "00002")]


def test_metadata_beside_files_must_be_of_their_prompt(tmp_path, prompts):
    assert files(read(geneval(tmp_path / "a", *TEXTS), prompts=prompts), "a").keys() == {*"012"}
    with pytest.raises(
        DataError, match="'0' is 'a cat' for the file of prompts, and 'a cow' for b"
    ):
        read(geneval(tmp_path / "b", "a cow"), prompts=prompts)


def test_outputs_are_written_and_read_again(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1_0.png", "1_1.png")
    pictures(tmp_path / "b", "0.png", "2.png", first=10)
    found = read(tmp_path / "a", tmp_path / "b", prompts=prompts)
    out = tmp_path / "out"
    write_outputs(found, out)
    again = read(out)
    assert again.prompts.keys() == found.prompts.keys()
    assert {k: (p.prompt, p.task) for k, p in again.prompts.items()} == {
        k: (p.prompt, p.task) for k, p in found.prompts.items()
    }
    assert files(again, "a") == files(found, "a")
    assert listed(again, "missing") == listed(found, "missing")
    assert read(out, tmp_path / "a", prompts=prompts).models == ["out-a", "b", f"{tmp_path.name}-a"]
    with pytest.raises(ConfigError, match="has 2 models with names; give it without x="):
        read(f"x={out}")


def test_prompts_that_nobody_has_are_noted_and_listed(tmp_path, prompts):
    pictures(tmp_path / "a", "0.png", "1.png")
    pictures(tmp_path / "b", "0.png", first=10)
    found = read(tmp_path / "a", tmp_path / "b", prompts=prompts)
    assert listed(found, "missing") == [("a", "2"), ("b", "1"), ("b", "2")]
    assert found.notes == ("1 prompt has no output of any model, such as '2'",)


def test_equal_names_get_what_tells_them_apart(tmp_path, prompts):
    for model in ("a", "b"):
        pictures(tmp_path / model / "images", "0.png")
    found = read(tmp_path / "a/images", tmp_path / "b/images", prompts=prompts)
    assert found.models == ["a-images", "b-images"]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["a", "a"], "a is given 2 times; give each model once"),
        (["x=a", "x=b"], "two models have the name 'x'"),
        (["a|b=a"], "is no name of a model"),
        (["nowhere"], "nowhere is not there"),
        (["x="], "has no path"),
        ([], "no model is given"),
    ],
)
def test_wrong_inputs_are_refused(tmp_path, prompts, monkeypatch, inputs, reason):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "a", "0.png")
    pictures(tmp_path / "b", "0.png")
    with pytest.raises(ConfigError, match=reason):
        read(*inputs, prompts=prompts)


def test_a_folder_of_files_is_not_written_into(tmp_path, prompts):
    """Its outputs.jsonl would make an evaluation of it, and sampled files would be of the model."""
    pictures(tmp_path / "a", "0.png")
    sampling = PolicySampling(tmp_path / "a" / ".." / "a")
    with pytest.raises(ConfigError, match="is in the folder of files"):
        read_models([str(tmp_path / "a")], prompts, sampling=sampling)
    sampling = PolicySampling(tmp_path / "a" / "out")
    assert read_models([str(tmp_path / "a")], prompts, sampling=sampling).models == ["a"]
    with pytest.raises(ConfigError, match="is in the folder of files"):
        read_models([str(tmp_path / "a")], prompts, policies=["p"], sampling=sampling)


def test_a_folder_without_prompts_is_refused(tmp_path):
    pictures(tmp_path / "a", "0.png")
    with pytest.raises(ConfigError, match="a has no prompts of its own; give them with --prompts"):
        read(tmp_path / "a")


def test_rows_without_candidates_are_refused(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", {"id": "x", "prompt": "a cat"})
    with pytest.raises(DataError, match="no row with candidates: the row has no candidates"):
        read(path)
