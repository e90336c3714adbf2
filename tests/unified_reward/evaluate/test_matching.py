"""Files to prompts: by id, number or text, and the names that must not be misread."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Task
from unified_reward.evaluate.matching import first_numbers, match_files, media_folder
from unified_reward.evaluate.prompt_files import PromptFile


def prompts(*ids, texts=None, numbered=False):
    texts = texts or [f"prompt {key}" for key in ids]
    examples = {
        key: Example(Task.IMAGE_GENERATION, text, id=key)
        for key, text in zip(ids, texts, strict=True)
    }
    return PromptFile(examples, tuple(ids), is_numbered=numbered)


def numbered(n):
    return prompts(*map(str, range(n)), numbered=True)


def match(folder, known, *names, others=()):
    """Matches of empty files with these names; ``others`` are names of another model's files."""
    listed = []
    for root, files in ((folder / "mine", names), (folder / "other", others)):
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        root.mkdir(exist_ok=True)
        listed.append(media_folder(root, len(known.places)))
    first = first_numbers(listed, len(known.places))[0]
    return match_files(listed[0], known, first)


def names(found, folder):
    root = folder / "mine"
    return {
        key: [str(file.relative_to(root)) for file in files] for key, files in found.files.items()
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["0.png", "1.png"], {"0": ["0.png"], "1": ["1.png"]}),
        (["1.png", "2.png"], {"0": ["1.png"], "1": ["2.png"]}),
        (["0000.png", "0001.jpg"], {"0": ["0000.png"], "1": ["0001.jpg"]}),
        (["0_1.png", "0_10.png", "0_2.png"], {"0": ["0_1.png", "0_2.png", "0_10.png"]}),
        (["00001-seed2.webp", "00000.png"], {"0": ["00000.png"], "1": ["00001-seed2.webp"]}),
        (["0001/a.png", "0000/b.png"], {"0": ["0000/b.png"], "1": ["0001/a.png"]}),
        (["seed1/0.png", "seed2/0.png"], {"0": ["seed1/0.png", "seed2/0.png"]}),
        (["images/0.png", "images/1.png"], {"0": ["images/0.png"], "1": ["images/1.png"]}),
    ],
)
def test_files_are_found_by_number(tmp_path, files, expected):
    found = match(tmp_path, numbered(2), *files)
    assert names(found, tmp_path) == expected
    assert found.unmatched == ()


def test_numbers_from_one_are_noted(tmp_path):
    assert "file 1 is of the first prompt" in match(tmp_path, numbered(2), "1.png").notes[0]


@given(
    n=st.integers(1, 30),
    first=st.integers(0, 1),
    width=st.integers(1, 6),
    copies=st.integers(1, 12),
    mark=st.sampled_from("-_"),
    data=st.data(),
)
def test_any_numbering_is_the_order_of_the_prompts(
    tmp_path_factory, n, first, width, copies, mark, data
):
    """The first file decides where numbers begin; each other may be missing."""
    folder = tmp_path_factory.mktemp("numbers")
    kept = {0} | data.draw(st.sets(st.integers(0, n - 1)))
    files = {
        number: [f"{number + first:0{width}}{mark}{k}.png" for k in range(copies)]
        for number in kept
    }
    found = match(folder, numbered(n), *(name for each in files.values() for name in each))
    assert names(found, folder) == {str(number): files[number] for number in sorted(kept)}


def test_a_missing_file_0_does_not_move_the_others(tmp_path):
    """Another model shows that numbers begin with 0."""
    found = match(tmp_path, numbered(3), "1.png", "2.png", others=["0.png", "1.png", "2.png"])
    assert names(found, tmp_path) == {"1": ["1.png"], "2": ["2.png"]}
    assert "no file 0, which another model has" in found.notes[0]


def test_models_may_number_from_0_and_from_1(tmp_path):
    found = match(tmp_path, numbered(2), "1.png", "2.png", others=["0.png", "1.png"])
    assert names(found, tmp_path) == {"0": ["1.png"], "1": ["2.png"]}


def test_ids_that_are_other_numbers_win_and_this_is_noted(tmp_path):
    found = match(tmp_path, prompts("2", "1", "0"), "0.png", "1.png", "02.png")
    assert names(found, tmp_path) == {"2": ["02.png"], "1": ["1.png"], "0": ["0.png"]}
    assert "matched by id; by number they would be of other prompts" in found.notes[0]


def test_numbers_count_where_ids_are_not_in_the_names(tmp_path):
    found = match(tmp_path, prompts("100", "101"), "0.png", "1.png")
    assert names(found, tmp_path) == {"100": ["0.png"], "101": ["1.png"]}


@pytest.mark.parametrize(
    ("ids", "files", "expected"),
    [
        (["cat", "dog"], ["cat.png", "dog.png"], {"cat": ["cat.png"], "dog": ["dog.png"]}),
        (["a_1", "a"], ["a_1.png", "a-2.png"], {"a_1": ["a_1.png"], "a": ["a-2.png"]}),
        (["a"], ["a_seed_3.png", "a-s4.png"], {"a": ["a-s4.png", "a_seed_3.png"]}),
        (["a"], ["a/1.png", "a/0.png"], {"a": ["a/0.png", "a/1.png"]}),
        (["a"], ["seed2/a.png", "seed1/a.png"], {"a": ["seed1/a.png", "seed2/a.png"]}),
        (["x/00000", "y/00000"], ["y/00000.jpg"], {"y/00000": ["y/00000.jpg"]}),
        (
            ["x/00000"],
            ["x/00000/1.jpg", "x/00000_2.jpg"],
            {"x/00000": ["x/00000/1.jpg", "x/00000_2.jpg"]},
        ),
        (["v1.5"], ["v1.5.png"], {"v1.5": ["v1.5.png"]}),
    ],
)
def test_files_are_found_by_id(tmp_path, ids, files, expected):
    found = match(tmp_path, prompts(*ids), *files)
    assert names(found, tmp_path) == expected


def test_an_id_that_begins_another_name_is_not_its_id(tmp_path):
    found = match(tmp_path, prompts("cat", "dog"), "cat.png", "cat_on_mat.png", "dog2.png")
    assert names(found, tmp_path) == {"cat": ["cat.png"]}
    assert [name for name, _ in found.unmatched] == ["cat_on_mat.png", "dog2.png"]


def test_folders_of_numbers_hold_prompts_unless_each_has_all(tmp_path):
    of_prompts = match(
        tmp_path / "a", numbered(3), *(f"{p}/{k}.png" for p in range(3) for k in range(2))
    )
    assert names(of_prompts, tmp_path / "a")["1"] == ["1/0.png", "1/1.png"]
    of_seeds = match(
        tmp_path / "b", numbered(3), *(f"{s}/{p}.png" for s in (1, 2) for p in range(3))
    )
    assert names(of_seeds, tmp_path / "b")["0"] == ["1/0.png", "2/0.png"]


def test_videos_of_vbench_are_found_by_text(tmp_path):
    known = prompts("0", "1", texts=["A house.", "a cat, in Ukiyo"], numbered=True)
    files = [
        "A house.-0.mp4",
        "A house.-1.mp4",
        "scene/a cat, in Ukiyo-0.mp4",
        "a_cat_in_ukiyo-1.mp4",
    ]
    found = match(tmp_path, known, *files)
    assert names(found, tmp_path) == {
        "0": ["A house.-0.mp4", "A house.-1.mp4"],
        "1": ["a_cat_in_ukiyo-1.mp4", "scene/a cat, in Ukiyo-0.mp4"],
    }


def test_equal_prompts_by_text_are_noted(tmp_path):
    known = prompts("x", "y", texts=["a cat", "a cat"])
    found = match(tmp_path, known, "a cat-0.png")
    assert list(found.files) == ["x"]
    assert "of equal prompts the first has all files" in found.notes[0]


def test_a_folder_of_geneval(tmp_path):
    files = ["00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png"]
    found = match(tmp_path, numbered(2), *files, "00000/grid.png", "00000/metadata.jsonl")
    assert names(found, tmp_path) == {"0": files[:2], "1": files[2:]}
    assert found.unmatched == ()


def test_files_that_are_no_media_are_not_listed(tmp_path):
    files = ["0.png", ".hidden.png", "notes.txt", "run.json", ".cache/1.png", "__MACOSX/0.png"]
    found = match(tmp_path, numbered(2), *files)
    assert names(found, tmp_path) == {"0": ["0.png"]}
    assert found.unmatched == ()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("7.png", "the prompts have the numbers 0 to 2"),
        ("cover.png", "does not begin with a number"),
        ("1.png", "the row of its number in the file of prompts cannot be used"),
    ],
)
def test_files_without_a_prompt_are_given_with_a_reason(tmp_path, name, reason):
    known = numbered(3)
    examples = {key: known.prompts[key] for key in ("0", "2")}
    known = PromptFile(examples, ("0", "", "2"), is_numbered=True)
    ((file, why),) = match(tmp_path, known, "0.png", "2.png", name).unmatched
    assert file == name
    assert reason in why


def test_a_folder_in_which_nothing_matches_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"its file cover.png lacks .*first id is 'x'"):
        match(tmp_path / "a", prompts("x"), "cover.png")
    with pytest.raises(DataError, match="holds no image and no video"):
        match(tmp_path / "b", prompts("x"), "notes.txt")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "0.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(file) for file in media_folder(Path(tmp_path), 1).files] == ["0.png"]
