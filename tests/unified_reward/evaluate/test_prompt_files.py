"""Files of prompts: every format and published layout, and rows that cannot be used."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unified_reward.evaluate.files import write_prompts, write_rows
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.prompt_files import read_prompts


def texts(found):
    return {key: prompt.prompt for key, prompt in found.prompts.items()}


def categories(found):
    outputs = ModelOutputs(found.prompts, {})
    return {key: outputs.categories(key) for key in found.prompts}


def write(path, text):
    path.write_text(text, "utf-8")
    return path


def test_a_text_file_is_a_prompt_a_line_by_number(tmp_path):
    found = read_prompts(write(tmp_path / "p.txt", "a cat\r\n  a dog \n\n"))
    assert texts(found) == {"0": "a cat", "1": "a dog"}
    assert found.is_numbered
    assert found.notes == ()


ROWS = [
    {"id": 7, "caption": "a cat", "Category": "animals", "more": 1},
    {"id": 9, "caption": "a car", "Category": "vehicles", "more": 2},
]


def csv(folder):
    return write(
        folder / "p.csv", "id,caption,Category,more\n7,a cat,animals,1\n9,a car,vehicles,2"
    )


def tsv(folder):
    return write(folder / "p.tsv", "id\tCaption\tcategory\n7\ta cat\tanimals\n9\ta car\tvehicles\n")


def array(folder):
    return write(folder / "p.json", json.dumps(ROWS, indent=1))


def parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "p.parquet")
    return folder / "p.parquet"


def lines(folder):
    return write_rows(folder / "p.jsonl", *ROWS)


@pytest.mark.parametrize("make", [csv, tsv, array, parquet, lines])
def test_tables_name_their_columns_in_any_usual_way(tmp_path, make):
    found = read_prompts(make(tmp_path))
    assert texts(found) == {"7": "a cat", "9": "a car"}
    assert categories(found) == {"7": ["animals"], "9": ["vehicles"]}
    assert not found.is_numbered


def test_rows_of_our_own_keep_criteria_tags_and_context(tmp_path):
    row = {"id": "x", "task": "image_editing", "prompt": "make it red", "criteria": "only colour"}
    row |= {"context": [{"image": "in/a.png"}], "tags": {"split": "test"}, "source": "hpd"}
    path = write_rows(tmp_path / "p.jsonl", row | {"candidates": [{"image": "b.png"}]})
    (prompt,) = read_prompts(path).prompts.values()
    assert prompt.task is Task.IMAGE_EDITING
    assert prompt.context == (Image(tmp_path / "in/a.png"),)
    assert (prompt.criteria, prompt.tags, prompt.candidates) == (
        "only colour",
        {"split": "test"},
        (),
    )


@pytest.mark.parametrize(
    ("row", "task", "context"),
    [
        ({"source_image": "a.png"}, Task.IMAGE_EDITING, Image),
        ({"source": "in/a.webp"}, Task.IMAGE_EDITING, Image),
        ({"source": "partiprompts"}, Task.IMAGE_GENERATION, None),
        ({"image": "a.png"}, Task.IMAGE_UNDERSTANDING, Image),
        ({"video": "a.mp4"}, Task.VIDEO_UNDERSTANDING, Video),
        ({"context": [{"video": "a.mp4"}]}, Task.VIDEO_UNDERSTANDING, Video),
        ({}, Task.IMAGE_GENERATION, None),
    ],
)
def test_media_of_a_prompt_tell_its_task(tmp_path, row, task, context):
    found = read_prompts(write_rows(tmp_path / "p.jsonl", {"prompt": "why", **row}))
    (prompt,) = found.prompts.values()
    assert prompt.task is task
    assert [type(medium) for medium in prompt.context] == ([context] if context else [])
    assert found.stated == frozenset()


def test_geneval_has_its_tags_as_categories(tmp_path):
    rows = [
        {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a red dog"},
        {"tag": "counting", "include": [], "prompt": "two dogs"},
    ]
    found = read_prompts(write_rows(tmp_path / "evaluation_metadata.jsonl", *rows))
    assert texts(found) == {"0": "a red dog", "1": "two dogs"}
    assert categories(found) == {"0": ["colors"], "1": ["counting"]}


def test_partiprompts_keep_the_challenge_as_a_tag(tmp_path):
    text = (
        'Prompt\tCategory\tChallenge\tNote\n42\tAbstract\tBasic\t\na sign "hi"\tArts\tWriting\tx\n'
    )
    found = read_prompts(write(tmp_path / "PartiPrompts.tsv", text))
    assert texts(found) == {"0": "42", "1": 'a sign "hi"'}
    assert categories(found)["1"] == ["Arts"]
    assert found.prompts["1"].tags["challenge"] == "Writing"


def test_drawbench_has_plural_columns(tmp_path):
    path = write(tmp_path / "drawbench.csv", "Prompts,Category\nA red car.,Colors\n")
    assert categories(read_prompts(path)) == {"0": ["Colors"]}


def test_hpdv2_has_a_file_a_style(tmp_path):
    for style in ("anime", "concept-art"):
        write(tmp_path / f"{style}.json", json.dumps([f"{style} one", f"{style} two"]))
    both = read_prompts(tmp_path)
    assert texts(both) == {
        "anime/00000": "anime one",
        "anime/00001": "anime two",
        "concept-art/00000": "concept-art one",
        "concept-art/00001": "concept-art two",
    }
    assert categories(both)["concept-art/00001"] == ["concept-art"]
    assert list(read_prompts(tmp_path / "anime.json").prompts) == ["anime/00000", "anime/00001"]
    path = write(tmp_path / "all", json.dumps({"anime": ["one"], "photo": ["two"]}))
    assert list(read_prompts(path.rename(tmp_path / "all.JSON")).prompts) == [
        "anime/00000",
        "photo/00000",
    ]


def test_an_array_of_texts_without_a_style_is_numbered(tmp_path):
    found = read_prompts(write(tmp_path / "mine.json", '["one", "two"]'))
    assert texts(found) == {"0": "one", "1": "two"}
    assert categories(found) == {"0": [], "1": []}


def test_vbench_has_several_dimensions_a_prompt(tmp_path):
    rows = [
        {"prompt_en": "a bird", "dimension": ["color", "scene"], "auxiliary_info": {"color": {}}}
    ]
    found = read_prompts(write(tmp_path / "VBench_full_info.json", json.dumps(rows)))
    assert texts(found) == {"0": "a bird"}
    assert categories(found) == {"0": ["color", "scene"]}


def test_rows_that_cannot_be_used_keep_their_number_and_are_named(tmp_path):
    rows = [
        {"prompt": "a"},
        "{broken",
        {"prompt": " "},
        {"prompt": ["x"]},
        {"prompt": "b", "task": "?"},
    ]
    found = read_prompts(write_rows(tmp_path / "p.jsonl", *rows, {"prompt": "c"}))
    assert texts(found) == {"0": "a", "5": "c"}
    assert found.places == ("0", "", "", "", "", "5")
    (note,) = found.notes
    assert "4 of 6 rows cannot be used" in note
    assert "line 3: the prompt is empty" in note
    assert "line 4: a prompt is text" in note
    assert all(f"line {n}:" in note for n in (2, 5))


def test_a_blank_line_of_a_text_file_keeps_its_number(tmp_path):
    found = read_prompts(write(tmp_path / "p.txt", "a\n\nb\n"))
    assert texts(found) == {"0": "a", "2": "b"}
    assert "line 2: the prompt is empty" in found.notes[0]


def test_a_second_prompt_with_an_id_is_refused_and_an_equal_text_is_not(tmp_path):
    rows = [{"id": "x", "prompt": "a"}, {"id": "y", "prompt": "a"}, {"id": "x", "prompt": "b"}]
    found = read_prompts(write_rows(tmp_path / "p.jsonl", *rows))
    assert texts(found) == {"x": "a", "y": "a"}
    assert "duplicate id 'x' (first on line 1)" in found.notes[0]
    assert "x and y" in found.notes[1]


def test_images_inside_a_table_are_refused_by_row(tmp_path):
    rows = [{"prompt": "a", "source_image": {"bytes": b"x", "path": None}}, {"prompt": "b"}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "p.parquet")
    found = read_prompts(tmp_path / "p.parquet")
    assert texts(found) == {"1": "b"}
    assert "row 1: column image holds dict" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("p.csv", "name,place\na,b\n", "no column prompt, .*but name, place"),
        ("p.txt", "\n \n", "the prompt is empty"),
        ("p.jsonl", "", "it is empty"),
        ("p.docx", "x", "prompts are read from .txt"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, name, text, reason):
    with pytest.raises(DataError, match=reason):
        read_prompts(write(tmp_path / name, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        read_prompts(tmp_path / "p.txt")


def test_many_bad_rows_are_counted_and_some_are_named(tmp_path):
    path = write_prompts(tmp_path / "p.txt", *["a", ""] * 9, "end")
    (problem, equal) = read_prompts(path).notes
    assert "9 of 19 rows" in problem
    assert problem.endswith("and 4 more")
    assert "1 prompt stands more than once" in equal
