"""Packing records with their media, and what comes back."""

import io
import json
import os
import random
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.media.made import file_of, grey_steps, noise, picture
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data import pack
from unified_reward.data.check import check, digest
from unified_reward.data.pack import convert, record_line, rows_of, with_media
from unified_reward.io.rows import Row, example_row
from unified_reward.media import encode_mp4, encode_png
from unified_reward_lab.examples import write_microworld


PACKED = ["packed.parquet", "packed.tar", "shards"]


def run(rows, out):
    """Convert, and the rows as they were seen."""
    seen = []
    convert(rows, out, seen.append)
    return seen


def row(content, line=1):
    return Row(line, content.id, content)


def every_kind(folder):
    """Records of every shape: frames, clips, interleaved answers, words to the letter."""
    (folder / "a.png").write_bytes(encode_png(picture(noise(8, 8, 3))))
    (folder / "b.jpg").write_bytes(file_of(picture(noise(9, 9, 3)), "JPEG"))
    (folder / "c.mp4").write_bytes(encode_mp4(grey_steps(3), 8))
    a, b, c = (Image(folder / "a.png"), Image(folder / "b.jpg"), Video(folder / "c.mp4"))
    answer = (
        {"from": "human", "value": "<image>\nwhich? ü\n"},
        {"from": "gpt", "value": 'the "1st"'},
    )
    scored = Target(3.25, Scale(1, 5), {"style": 2.0}, None, "because\n")
    gen, und = Task.IMAGE_GENERATION, Task.IMAGE_UNDERSTANDING
    return [
        Example.of(Sample(gen, "a «star»", (a, b), id="1"), Target(winner="tie"), "made"),
        Example.of(Sample(gen, "interleaved", (("text", a), (b,)), id="2"), Target(winner="first")),
        Example.of(Sample(und, "?", ("yes",), (a,), "criteria", "3"), scored, "made", answer),
        Example.of(Sample(Task.VIDEO_GENERATION, "p", (Video((a, b)),), id="4"), Target()),
        Example.of(Sample(Task.VIDEO_UNDERSTANDING, "p", ("x", "y"), (c,), "", "5"), Target()),
        Example(
            gen,
            "",
            (),
            (a, b),
            id="6",
            target=Target(winner="second"),
            source="made",
            messages=answer,
        ),
    ]


def rows_in(path):
    return [item.content for item in rows_of(path)]


def by_content(content):
    """A record whose media are named by what their bytes are."""
    return example_row(with_media(content, lambda item: f"/{digest(item)}"), "/")


@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_comes_back_with_the_same_bytes_from_any_folder(name, tmp_path):
    given_ = every_kind(tmp_path)
    seen = run([row(item) for item in given_], tmp_path / name)
    assert [item.content for item in seen] == given_
    moved = (tmp_path / name).rename(tmp_path / f"moved{(tmp_path / name).suffix}")
    for file in tmp_path.glob("?.*"):
        file.unlink()
    assert all(not item.reason for item in check(rows_of(moved), decode=True))
    back = tmp_path / "elsewhere" / "back.jsonl"
    run(rows_of(moved), back)
    every_kind(tmp_path)
    assert list(map(by_content, rows_in(back))) == list(map(by_content, given_))


@pytest.mark.parametrize("name", PACKED)
def test_records_beside_media_named_by_content_come_back_to_the_letter(name, tmp_path):
    path = write_microworld(
        tmp_path / "a", task=Task.VIDEO_UNDERSTANDING, forms=("score", "compare"), n=4, seed=0,
        split="train",
    )  # fmt: skip
    run(rows_of(path), tmp_path / name)
    run(rows_of(tmp_path / name), tmp_path / "b" / "records.jsonl")
    assert (tmp_path / "b" / "records.jsonl").read_text() == path.read_text()
    for file in (tmp_path / "a" / "media").iterdir():
        assert (tmp_path / "b" / "media" / file.name).read_bytes() == file.read_bytes()


def test_records_go_from_folder_to_folder_without_copying_media(tmp_path):
    given_ = every_kind(tmp_path)
    run([row(item) for item in given_], tmp_path / "deep" / "er" / "out.jsonl")
    assert rows_in(tmp_path / "deep" / "er" / "out.jsonl") != []
    assert not (tmp_path / "deep" / "er" / "media").exists()
    line = json.loads((tmp_path / "deep" / "er" / "out.jsonl").read_text().splitlines()[0])
    assert line["candidates"] == [{"image": "../../a.png"}, {"image": "../../b.jpg"}]


def test_a_shard_is_laid_out_as_webdataset_groups_it(tmp_path):
    run([row(every_kind(tmp_path)[i]) for i in (0, 3)], tmp_path / "p.tar")
    with tarfile.open(tmp_path / "p.tar") as tar:
        names = tar.getnames()
        result = json.load(tar.extractfile("000000001.json"))
    assert names == [f"00000000{i}.{part}" for i in (0, 1) for part in ("json", "0.png", "1.jpg")]
    assert result["candidates"] == [{"video": ["0.png", "1.jpg"]}]


def test_shards_and_row_groups_are_bounded_and_rows_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "SHARD_BYTES", 2000)
    monkeypatch.setattr(pack, "GROUP_BYTES", 9000)
    records = [
        Example.of(
            Sample(Task.IMAGE_GENERATION, "p", (Image(bytes([i]) * 500),), id=str(i)), Target()
        )
        for i in range(12)
    ]
    for name in ("shards", "p.parquet"):
        run([row(item) for item in records], tmp_path / name)
        assert rows_in(tmp_path / name) == records
    assert len(list((tmp_path / "shards").iterdir())) == 4
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 6


@pytest.mark.parametrize("name", ["out.jsonl", *PACKED])
def test_one_bad_row_costs_one_row(name, tmp_path):
    good, other = every_kind(tmp_path)[:2]
    half = Example.of(Sample(Task.IMAGE_GENERATION, "\ud800", (Image(b"x"),), id="half"), Target())
    bad = [Row(2, "row 2", Failed("no verdict", DataError(""))), row(half, 3)]
    if name != "out.jsonl":
        gone = Image(tmp_path / "gone.png")
        bad.append(
            row(Example.of(Sample(Task.IMAGE_GENERATION, "p", (gone,), id="g"), Target()), 4)
        )
    seen = run([row(good), *bad, row(other, 5)], tmp_path / name)
    result = [item.content.error for item in seen if isinstance(item.content, Failed)]
    assert len(result) == len(bad)
    assert result[0] == "no verdict"
    assert result[1] == r"no file can hold the half character '\ud800' of a text"
    assert all("gone.png: cannot be opened: No such file" in item for item in result[2:])
    assert [item.id for item in rows_in(tmp_path / name)] == ["1", "2"]


def breaking(rows):
    yield from rows
    raise DataError("the disk went away")


@pytest.mark.parametrize("name", ["out.jsonl", *PACKED])
def test_an_error_leaves_what_was_there_and_nothing_half_written(name, tmp_path):
    records = [row(item) for item in every_kind(tmp_path)]
    if name != "shards":
        (tmp_path / name).write_bytes(b"before")
    left = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="went away"):
        run(breaking(records), tmp_path / name)
    with pytest.raises(DataError, match="no row can be used"):
        run([], tmp_path / name)
    assert sorted(tmp_path.iterdir()) == left
    assert name == "shards" or (tmp_path / name).read_bytes() == b"before"


def test_another_suffix_and_a_folder_that_exists_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"x.zip is not .jsonl, .parquet, .tar"):
        run([], tmp_path / "x.zip")
    with pytest.raises(ConfigError, match="is a folder already"):
        run([], tmp_path)


@given(keep=st.floats(0.05, 0.999), data=st.data())
def test_a_tar_cut_anywhere_gives_its_whole_rows_and_says_that_it_breaks_off(
    keep, data, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("cut")
    rng = random.Random(1)
    records = [
        Example.of(
            Sample(Task.IMAGE_GENERATION, "p", (Image(rng.randbytes(3000)),), id=str(i)), Target()
        )
        for i in range(4)
    ]
    run([row(item) for item in records], folder / "p.tar")
    with tarfile.open(folder / "p.tar") as tar:
        end = tar.getmembers()[-1].offset_data + 3000
    path = folder / "p.tar"
    path.write_bytes(path.read_bytes()[: int(keep * end)])
    found = rows_in(path)
    whole = [item for item in found if not isinstance(item, Failed)]
    assert whole == records[: len(whole)]
    failed = [item.error for item in found if isinstance(item, Failed)]
    assert len(failed) <= 2
    assert "breaks off here" in failed[-1]
    assert len(whole) < 4


def test_a_packed_row_that_is_not_utf8_costs_itself_alone(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    items = every_kind(folder)[:2]
    run(
        [row(replace(item, prompt=f"prompt {i}")) for i, item in enumerate(items)],
        tmp_path / "p.parquet",
    )
    table = pq.read_table(tmp_path / "p.parquet")
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, tmp_path / "p.parquet", **plain)
    data = (tmp_path / "p.parquet").read_bytes()
    assert data.count(b"prompt 0") == 1
    (tmp_path / "p.parquet").write_bytes(data.replace(b"prompt 0", b"prompt\xff0"))
    first, second = rows_in(tmp_path / "p.parquet")
    assert first.error == "the row is not UTF-8"
    assert second.prompt == "prompt 1"


@pytest.mark.parametrize(
    "read", [rows_of, lambda path: rows_of(path, "annotated.image_generation.score")]
)
def test_a_parquet_file_whose_columns_are_not_utf8_is_refused(read, tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"caption": ["a"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"caption", b"capti\xff\xfe"))
    with pytest.raises(DataError, match=r"p\.parquet"):
        list(read(path))


@pytest.mark.parametrize(("column", "given"), [("prompt", b"\xff"), ("media", "words")])
def test_a_packed_column_of_another_type_fails_its_rows(column, given, tmp_path):
    path = tmp_path / "p.parquet"
    run([row(every_kind(tmp_path)[0])], path)
    table = pq.read_table(path).drop_columns(column).append_column(column, pa.array([given]))
    pq.write_table(table, path)
    (failed,) = rows_in(path)
    assert "its columns are not of the types that were packed" in failed.error


def test_a_row_that_lacks_its_medium_or_repeats_an_id_is_failed(tmp_path):
    given_ = every_kind(tmp_path)
    run([row(given_[0]), row(given_[1]), row(given_[0])], tmp_path / "p.tar")
    with tarfile.open(tmp_path / "p.tar") as tar, tarfile.open(tmp_path / "q.tar", "w") as cut:
        for member in tar:
            if member.name != "000000001.1.jpg":
                cut.addfile(member, tar.extractfile(member))
    first, second, third = rows_in(tmp_path / "q.tar")
    assert first.id == "1"
    assert second.error == "medium '1.jpg' is not packed with its row"
    assert third.error == "duplicate id '1' (first on row 1)"


def test_files_of_another_kind_are_told_from_ours(tmp_path):
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "no.parquet").write_bytes(b"words")
    (tmp_path / "no.tar").write_bytes(b"words")
    (tmp_path / "empty").mkdir()
    for name, result in {
        "other.parquet": "has no columns candidates, .*name its source",
        "no.parquet": "cannot be read as Parquet",
        "no.tar": "cannot be read as tar",
        "empty": r"holds no .tar files",
        "gone.tar": "cannot be read as tar",
    }.items():
        with pytest.raises(DataError, match=result):
            list(rows_of(tmp_path / name))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_medium_that_is_no_regular_file_costs_its_row_and_is_not_waited_for(make, tmp_path):
    make(tmp_path / "a.png")
    item = Example(Task.IMAGE_GENERATION, "x", (Image(tmp_path / "a.png"),), id="a")
    seen = []
    with pytest.raises(DataError, match="no row can be used"):
        convert([row(item)], tmp_path / "out.parquet", seen.append)
    assert seen[0].content.error.endswith("a.png: cannot be opened: not a regular file")


def test_a_medium_in_memory_is_named_by_what_it_is(tmp_path):
    kinds = {
        ".png": encode_png(picture(noise(4, 4, 3))),
        ".jpg": file_of(picture(noise(4, 4, 3)), "JPEG"),
        ".webp": file_of(picture(noise(4, 4, 3)), "WEBP"),
        ".mp4": encode_mp4(grey_steps(2), 8),
        ".bin": b"words",
    }
    for i, kept in enumerate(kinds.values()):
        content = Example(
            Task.IMAGE_GENERATION, "", (), (Image(kept),), id=f"{i}", messages=({"a": 1},)
        )
        run([row(content)], tmp_path / f"{i}.jsonl")
    assert {item.suffix for item in (tmp_path / "media").iterdir()} == set(kinds)


def test_a_number_that_json_lacks_costs_its_row(tmp_path):
    example = Example(Task.IMAGE_GENERATION, "p", id="a", raters=[float("nan")])
    with pytest.raises(DataError, match="NaN and Infinity are no numbers of JSON"):
        record_line(example, tmp_path)


MADE = {
    "judge_calls": 3,
    "judge": "j",
    "family": "f",
    "strategy": "rank",
    "policy": "p",
    "seed": 7,
    "duplicates": 1,
}


@pytest.mark.parametrize("name", ["packed.jsonl", *PACKED])
@pytest.mark.parametrize("status", ["kept", "dropped", "generated"])
def test_what_a_pairs_row_says_of_its_candidates_is_kept(name, status, tmp_path):
    every_kind(tmp_path)
    a, b = {"image": "a.png"}, {"image": "b.jpg"}
    details = [{"score": 2.5, "side": "chosen", "reason": None}, {"score": None, "reason": "lost"}]
    comparison = {"a": 0, "b": 1, "winner": "first", "probability": 0.75, "orders": None}
    made = {"id": "1", "task": "image_generation", "prompt": "x", "status": status, **MADE}
    made |= {"candidates": [a | details[0], b | details[1], {"parts": [a, {"text": "t"}]}]}
    made |= {"reason": "why", "comparisons": [comparison]}
    if status == "kept":
        made |= {"chosen": a, "rejected": b, "chosen_score": 2.5}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(made) + "\n")
    run(rows_of(path), tmp_path / name)
    (before,), (after,) = rows_of(path), rows_of(tmp_path / name)
    assert (after.status, after.reason, after.details) == (status, "why", before.details)
    assert after.details.candidates[0].score == 2.5
    assert after.details.candidates[1].reason == "lost"
    assert by_content(after.content) == by_content(before.content)


def test_a_packed_row_of_the_name_of_a_broken_one_is_another(tmp_path):
    content = every_kind(tmp_path)[0]
    run([row(replace(content, id=f"row {i}")) for i in (1, 2, 3)], tmp_path / "p.tar")
    with tarfile.open(tmp_path / "p.tar") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(tmp_path / "q.tar", "w") as tar:
        for member, inside in members:
            content = b"{broken" if member.name == "000000000.json" else inside
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = list(rows_of(tmp_path / "q.tar"))
    assert [item.id for item in found[1:]] == ["row 2", "row 3"]
    assert found[0].id not in ("", "row 1", "row 2", "row 3")
