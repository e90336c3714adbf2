"""Prompts beside the outputs: ImageFolder of Hugging Face, GenEval."""

from pathlib import PurePosixPath

import pytest

from tests.unified_reward.evaluate.files import picture, pictures, write_prompts, write_rows
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Task
from unified_reward.evaluate.folder_prompts import read_metadata
from unified_reward.evaluate.inputs import read_models


def texts(found):
    return {key: prompt.prompt for key, prompt in found.prompts.items()}


def image_folder(folder, first=0, **captions):
    names = [name.replace("_", ".") for name in captions]
    pictures(folder, *names, first=first)
    rows = [
        {"file_name": name, "text": text}
        for name, text in zip(names, captions.values(), strict=True)
    ]
    write_rows(folder / "metadata.jsonl", *rows)
    return folder


def names(found, model):
    return {
        key: [candidate.source.name for candidate in each]
        for key, each in found.outputs[model].items()
    }


def test_prompts_beside_outputs_have_the_names_of_their_folders(tmp_path):
    for name in ("00000", "00003"):
        write_rows(tmp_path / name / "metadata.jsonl", {"tag": "colors", "prompt": f"dog {name}"})
    write_rows(tmp_path / "train" / "metadata.jsonl", {"file_name": "a.png", "text": "a caption"})
    found = read_metadata(tmp_path)
    assert texts(found.prompts) == {"00000": "dog 00000", "00003": "dog 00003"}
    assert found.of(PurePosixPath("00003/samples/0000.png")).id == "00003"
    assert found.of(PurePosixPath("x.png")) is None
    assert read_metadata(tmp_path / "none") is None


def test_file_names_give_the_prompts(tmp_path):
    image_folder(tmp_path / "a", cat_png="a cat", dog_png="a dog", tom_jpg="a  cat")
    found = read_models([tmp_path / "a"])
    assert texts(found) == {"cat": "a cat", "dog": "a dog"}
    assert names(found, "a") == {"cat": ["cat.png", "tom.jpg"], "dog": ["dog.png"]}
    assert {prompt.task for prompt in found.prompts.values()} == {Task.IMAGE_GENERATION}
    assert not found.missing


def test_models_meet_by_the_text_of_their_prompts(tmp_path):
    image_folder(tmp_path / "a", x0_png="a cat", x1_png="a dog")
    image_folder(tmp_path / "b", 9, x0_png="a dog", x1_png="a cat", x2_png="a cow")
    found = read_models([tmp_path / "a", tmp_path / "b"])
    assert texts(found) == {"x0": "a cat", "x1": "a dog", "x2": "a cow"}
    assert names(found, "b") == {"x0": ["x1.png"], "x1": ["x0.png"], "x2": ["x2.png"]}


def test_the_same_file_names_with_other_prompts_are_other_prompts(tmp_path):
    image_folder(tmp_path / "a", x_png="a cat", y_png="a dog")
    image_folder(tmp_path / "b", 9, x_png="a cow", y_png="a dog")
    found = read_models([tmp_path / "a", tmp_path / "b"])
    assert texts(found) == {"x": "a cat", "y": "a dog", "b/x": "a cow"}
    assert names(found, "b") == {"y": ["y.png"], "b/x": ["x.png"]}


def test_metadata_come_before_numbers_and_a_file_of_prompts_is_matched_by_text(tmp_path):
    folder = image_folder(tmp_path / "a", **{"0_png": "a dog", "1_png": "a cat"})
    prompts = write_prompts(tmp_path / "p.txt", "a cat", "a dog")
    assert names(read_models([folder], prompts), "a") == {"0": ["1.png"], "1": ["0.png"]}


def test_files_and_rows_without_each_other_are_listed(tmp_path):
    folder = image_folder(tmp_path / "a", x_png="a cat", y_png="a dog")
    (folder / "y.png").unlink()
    picture(folder / "new.png", 99)
    found = read_models([folder])
    reasons = {entry.prompt: entry.reason for entry in found.missing}
    assert reasons["y"] == "it has no output"
    assert "no row of the folder's metadata names it as file_name" in reasons["new.png"]
    assert any("1 file of its metadata is not there, such as y.png" in note for note in found.notes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_read_too_and_ids_are_kept(tmp_path, suffix):
    rows = [{"file_name": "x.png", "prompt": "a cat", "id": "7", "category": "animals"}]
    if suffix == "csv":
        (tmp_path / "metadata.csv").write_text(
            "file_name,prompt,id,category\nx.png,a cat,7,animals\n"
        )
    else:
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    picture(tmp_path / "x.png")
    found = read_models([f"a={tmp_path}"])
    assert texts(found) == {"7": "a cat"}
    assert found.categories("7") == ["animals"]


def test_a_folder_in_the_folder_has_its_own_names(tmp_path):
    image_folder(tmp_path / "train", x_png="a cat")
    found = read_metadata(tmp_path)
    assert found.of(PurePosixPath("train/x.png")).prompt == "a cat"
    assert found.of(PurePosixPath("x.png")) is None


def test_an_id_with_two_texts_is_a_problem_and_no_prompt_of_the_second_file(tmp_path):
    rows = [{"file_name": f"{name}.png", "id": 1, "text": name} for name in "ab"]
    found = read_metadata(write_rows(tmp_path / "metadata.jsonl", *rows, {"text": "c"}).parent)
    assert texts(found.prompts) == {"1": "a"}
    assert found.of(PurePosixPath("b.png")) is None
    (note,) = found.prompts.notes
    assert "metadata.jsonl line 2: duplicate id '1'" in note
    assert "metadata.jsonl line 3: it has no file_name" in note


def test_metadata_without_prompts_matter_only_where_they_are_needed(tmp_path):
    pictures(tmp_path / "a", "0.png", "1.png")
    rows = [{"file_name": f"{n}.png", "label": n} for n in range(2)]
    write_rows(tmp_path / "a" / "metadata.jsonl", *rows)
    with pytest.raises(DataError, match=r"no prompt that can be used: metadata\.jsonl line 1"):
        read_models([tmp_path / "a"])
    prompts = write_prompts(tmp_path / "p.txt", "a cat", "a dog")
    found = read_models([tmp_path / "a"], prompts)
    assert names(found, "a") == {"0": ["0.png"], "1": ["1.png"]}
    assert any("no prompt that can be used" in note for note in found.notes)
