"""The microworld as a training series and as files: nothing lost, nothing leaked."""

import json

import numpy as np
import pytest

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.data.example_file import mirrored
from unified_reward.io.rows import read_examples
from unified_reward_lab.examples import CELLS, MicroworldSeries, write_microworld
from unified_reward_lab.microworld import NOISELESS, annotator, make_example, split_of


FORMS = ("score", "compare")


def series(n=64, *, block=4, seed=0, weights=None, labeller=NOISELESS):
    weights = weights or dict.fromkeys(CELLS, 1.0)
    return MicroworldSeries(n, block=block, seed=seed, weights=weights, annotator=labeller)


def media_of(record):
    return [
        example
        for example in (*record.sample.context, *record.sample.candidates)
        if isinstance(example, Image | Video)
    ]


def pixels(medium):
    if isinstance(medium, Image):
        return np.asarray(media.open_image(medium))
    return media.sample_frames(medium, 8).pixels


@pytest.mark.parametrize("task", sorted({task for task, _ in CELLS.values()}))
def test_what_is_written_is_read_back_to_the_pixel(task, tmp_path):
    path = write_microworld(tmp_path, task=task, forms=FORMS, n=6, seed=3, split="test")
    read = [row.content for row in read_examples(path)]
    made = [
        make_example(task, form, split="test", seed=3, index=i) for i in range(3) for form in FORMS
    ]
    assert len(read) == 6
    for example, other in zip(read, made, strict=True):
        assert example.target == other.target
        assert (example.sample.id, example.sample.prompt) == (other.sample.id, other.sample.prompt)
        assert [c for c in example.sample.candidates if isinstance(c, str)] == [
            c for c in other.sample.candidates if isinstance(c, str)
        ]
        for mine, given in zip(media_of(example), media_of(other), strict=True):
            assert np.array_equal(pixels(mine), given.source)


def test_two_runs_write_the_same_bytes(tmp_path):
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        write_microworld(
            folder, task=Task.VIDEO_GENERATION, forms=["compare"], n=3, seed=0, split="train"
        )
    example, other = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in folders
    )
    assert example == other
    assert len(example) >= 5


def test_rows_name_their_media_relative_to_the_file(tmp_path):
    path = write_microworld(
        tmp_path, task=Task.IMAGE_GENERATION, forms=["score"], n=1, seed=0, split="train"
    )
    row = json.loads(path.read_text("utf-8"))
    assert row["candidates"][0]["image"].startswith("media/")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    record = next(iter(read_examples(moved / path.name))).content
    assert pixels(record.sample.candidates[0]).shape == (64, 64, 3)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"records\.jsonl cannot be written"):
        write_microworld(
            tmp_path / "file",
            task=Task.IMAGE_GENERATION,
            forms=["score"],
            n=1,
            seed=0,
            split="train",
        )


def test_no_record_of_the_series_has_a_caption_of_the_test_split():
    records = list(series(96, weights=generation()))
    assert len(records) == 96
    assert {split_of(example.sample.prompt) for example in records} == {"train"}


def test_a_record_depends_on_its_index_alone():
    whole, other = series(), series()
    for index in (40, 3, 63):
        assert whole[index].sample.prompt == other[index].sample.prompt
        assert whole[index].target == other[index].target


def test_a_block_holds_one_cell():
    cells = [
        (example.sample.task, example.sample.form) for example in (series()[i] for i in range(64))
    ]
    blocks = [set(cells[start : start + 4]) for start in range(0, 64, 4)]
    assert all(len(block) == 1 for block in blocks)
    assert len(set.union(*blocks)) > 4


def test_a_cell_of_weight_zero_never_comes():
    wanted = {"image_generation.score": 1.0, "video_generation.score": 0.0}
    tasks = {series(weights=wanted)[i].sample.task for i in range(0, 64, 4)}
    assert tasks == {Task.IMAGE_GENERATION}


def test_labels_come_from_the_annotator_and_candidates_do_not():
    wanted = {"image_generation.compare": 1.0}
    honest = series(40, weights=wanted)
    biased = series(40, weights=wanted, labeller=annotator("position:2"))
    for index in range(40):
        assert biased[index].target.winner == "first"
        assert pixels(media_of(honest[index])[0]).tobytes() == (
            pixels(media_of(biased[index])[0]).tobytes()
        )
    assert any(honest[index].target.winner != "first" for index in range(40))


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (
            {"image_generation.rank": 1.0},
            "unknown cells: image_generation.rank; there are image_gen",
        ),
        ({"nothing": 0.0, "image_generation.score": 1.0}, "unknown cells: nothing"),
    ],
)
def test_an_unknown_cell_is_refused_by_name(weights, text):
    with pytest.raises(ConfigError, match=text):
        series(weights=weights)


def test_no_cell_at_all_is_refused():
    with pytest.raises(ConfigError, match="unknown cells: none; there are"):
        MicroworldSeries(4, block=1, seed=0, weights={}, annotator=NOISELESS)


def generation():
    return {cell: 1.0 for cell in CELLS if "generation" in cell}


def test_twins_follow_each_other_in_a_series_and_scores_stay_as_they_are():
    labeller = annotator("position:0.5")
    shares = dict.fromkeys(CELLS, 1.0)
    plain = series(labeller=labeller)
    twins = MicroworldSeries(64, block=4, seed=0, weights=shares, annotator=labeller, twins=True)
    for i in range(0, 64, 2):
        example, other = twins[i], twins[i + 1]
        assert example.sample.id == plain[i].sample.id
        if example.sample.form == "compare":
            turned = mirrored(plain[i])
            assert other.target == turned.target
            texts = [c for c in other.sample.candidates if isinstance(c, str)]
            assert texts == [c for c in turned.sample.candidates if isinstance(c, str)]
            for mine, given in zip(media_of(other), media_of(turned), strict=True):
                assert np.array_equal(mine.source, given.source)
        else:
            assert other.sample.id == plain[i + 1].sample.id
