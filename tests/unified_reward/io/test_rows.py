"""Rows read back as written, bad ones with their line; a journal survives a kill."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unified_reward.media.made import noise
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Ranking, Scale, Score, Scored, Unparsed
from unified_reward.io.journal import Journal
from unified_reward.io.rows import example_row, parse_row, read_examples
from unified_reward.io.verdict_rows import (
    VERDICT_KEYS,
    read_verdict,
    read_verdict_rows,
    verdict_row,
)


CONTRACT = [
    *("id", "status", "value", "normalized", "scale", "sigma", "aspects", "winner", "p_first"),
    *("p_tie", "p_second", "probability", "orders", "consistent", "order", "scores", "text"),
    *("reason", "judge", "family"),
]
FOLDER = Path("/data/set")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text("ab.é 雪[]{}%", min_size=1).filter(lambda name: name.strip("."))
PATHS = NAMES.map(FOLDER.joinpath)
MEDIA = st.builds(Image, PATHS) | st.builds(Video, PATHS)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
PARTS = st.lists(MEDIA | TEXT, max_size=3).map(tuple)


@st.composite
def samples(draw):
    task = draw(st.sampled_from(Task))
    understanding = task.value.endswith("understanding")
    candidate = (TEXT if understanding else MEDIA) | PARTS
    about = understanding or task is Task.IMAGE_EDITING
    return Sample(
        task,
        draw(TEXT),
        tuple(draw(st.lists(candidate, min_size=1, max_size=2))),
        tuple(draw(st.lists(MEDIA, min_size=int(about), max_size=2))),
        draw(TEXT),
        draw(TEXT.filter(bool)),
    )


@st.composite
def targets(draw, candidates):
    low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS).filter(lambda ends: len({*ends}) == 2)))
    scale = draw(st.sampled_from([None, Scale(low, high), Scale(None, high), Scale(None, None)]))
    score = draw(st.sampled_from([None, low, high])) if len(candidates) == 1 else None
    ends = st.sampled_from([low, high])
    aspects = draw(st.dictionaries(TEXT, NUMBERS if score is not None else ends, max_size=2))
    winners = [None, "tie", "first", "second"][: 4 if candidates[0] != candidates[-1] else 2]
    winner = draw(st.sampled_from(winners)) if len(candidates) == 2 else None
    return Target(score, scale, aspects, winner, draw(TEXT))


MESSAGES = st.lists(st.dictionaries(TEXT, TEXT | NUMBERS | st.lists(TEXT)), max_size=2).map(tuple)


@settings(deadline=None)
@given(st.data(), samples(), TEXT, MESSAGES)
def test_a_record_comes_back_from_its_row(data, sample, source, messages):
    record = Example.of(sample, data.draw(targets(sample.candidates)), source, messages)
    row = json.dumps(example_row(record, FOLDER), ensure_ascii=False)
    assert parse_row(row.encode(), FOLDER) == record


def test_a_clip_given_as_frames_comes_back_as_frames():
    frames = tuple(Image(FOLDER / f"{i}.png") for i in range(3))
    record = Example.of(Sample(Task.VIDEO_GENERATION, "x", (Video(frames),), id="a"), Target())
    row = example_row(record, FOLDER)
    assert row["candidates"] == [{"video": ["0.png", "1.png", "2.png"]}]
    assert parse_row(json.dumps(row).encode(), FOLDER).sample.candidates[0].source == frames


def test_pixels_in_memory_cannot_stand_in_a_row():
    sample = Sample(Task.IMAGE_GENERATION, "x", (Image(noise(2, 2, 3), "HWC"),), id="a")
    with pytest.raises(DataError, match="by its file; write it to a file first"):
        example_row(Example.of(sample, Target()), FOLDER)


def row(**given_):
    """A good sample row with some keys replaced."""
    plain = {
        "id": "a",
        "task": "image_generation",
        "prompt": "p",
        "candidates": [{"image": "a.png"}],
    }
    return plain | given_


def lines(*rows):
    """JSONL; bytes stand for themselves."""
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in rows
    )


@pytest.mark.parametrize(
    ("bad", "result"),
    [
        (b"{not json", "Invalid JSON"),
        (b'["a"]', "row: Input should be an object"),
        (b'{"id": "\xff\xfe"}', "row: not UTF-8"),
        (b'{"id": "\\ud800"}', "a text holds the half character"),
        (b'{"id": "a", "id": "b"}', "the key 'id' stands twice"),
        (b"[" * 9999, "nested too deeply"),
        (row(id=7.5), "id: Input should be a valid string"),
        (row(target={"score": True}), "target.score: .*True is not a number"),
        (row(target={"score": "1_0"}), "target.score: .*'1_0' is not a number"),
        (row(task="video_generation", candidates=[{"video": []}]), "its list is empty"),
        (b'{"target": {"score": 1e999}}', "1e999 is not a finite number"),
        ({"id": "b", "task": "image_generation"}, "prompt: Field required, unless the status"),
        (row(task="image_rating"), "task: Input should be 'image_generation'"),
        (row(id=True), "id: Input should be a valid string"),
        (row(id="good"), r"duplicate id 'good' \(first on line 1\)"),
        (row(candidates=[{}]), 'a part has one of the keys "image", "video", "text", not none'),
        (row(candidates=[{"image": "x", "text": "y"}]), "not image and text"),
        (row(candidates=[{"text": "words"}]), "a candidate of image_generation is an image"),
        (row(context=[{"text": "before"}]), "context holds images and videos, not text"),
        (row(target={"score": 6, "scale": [1, 5]}), "score 6 is outside its scale 1 to 5"),
        (
            row(target={"score": 3, "scale": [3, 3]}),
            "rises from low to high, unlike 3 to 3",
        ),
        (
            row(target={"aspects": {"a": 3}, "scale": [5, 1]}),
            "a scale rises",
        ),
        (row(raters=[float("nan")]), "NaN is not a number; null is right"),
        (row(messages=[{"a": {"b": float("inf")}}]), "Infinity is not a number"),
        (row(candidates=[{"image": ""}]), 'a medium is the path of a file, not ""'),
        (row(candidates=[{"video": ["a.png", ""]}]), 'a medium is the path of a file, not ""'),
        (row(target={"winner": "left"}), "target.winner: Input should be 'first'"),
        (row(target={"score": "high"}), "target.score: .*'high' is not a number"),
        (
            b'{"id": "n", "task": "image_generation", "prompt": "p", '
            b'"candidates": [{"image": "x"}], "target": {"score": NaN}}',
            "NaN is not a number",
        ),
    ],
)
def test_a_bad_row_is_told_by_its_line_and_the_others_go_on(bad, result, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines(row(id="good"), bad, b"  ", row(id="last")))
    good, failed, last = read_examples(path)
    assert (good.id, good.line, last.id, last.line) == ("good", 1, "last", 4)
    assert isinstance(good.content, Example)
    assert isinstance(last.content, Example)
    with pytest.raises(DataError, match=rf"line 2: .*{result}"):
        raise failed.content.cause
    assert failed.id == "line 2"


def test_the_start_of_a_row_is_where_its_line_begins(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines(row(prompt="雪"), b"broken", row(id="b")))
    whole = path.read_bytes()
    for item in read_examples(path):
        assert whole[item.start :].splitlines()[0] == whole.splitlines()[item.line - 1]


def test_a_missing_id_follows_from_the_content_and_not_from_the_place(tmp_path):
    path = tmp_path / "in.jsonl"
    nameless = {key: value for key, value in row().items() if key != "id"}
    path.write_bytes(lines(nameless, nameless | {"prompt": "q"}))
    first, second = (item.id for item in read_examples(path))
    path.write_bytes(lines(row(), nameless | {"prompt": "q"}, nameless))
    assert [item.id for item in read_examples(path)] == ["a", second, first]
    assert first != second


def test_relative_paths_start_at_the_file_and_absolute_ones_stay(tmp_path):
    path = tmp_path / "sub" / "in.jsonl"
    path.parent.mkdir()
    both = [{"image": "../a.png"}, {"image": "/b.png"}]
    path.write_bytes(lines(row(candidates=both)))
    (read,) = read_examples(path)
    a, b = (item.source for item in read.content.sample.candidates)
    assert a.resolve() == (tmp_path / "a.png").resolve()
    assert b == Path("/b.png")
    again = example_row(read.content, tmp_path / "other")
    assert again["candidates"][0] == {"image": "../a.png"}


@pytest.mark.parametrize("url", ["https://host//a.png?b=c", "data:image/png;base64,AA//"])
def test_a_url_stays_as_it_is_from_row_to_row(url, tmp_path):
    parts = [{"image": url}, {"image": url}]
    line = json.dumps({"task": "image_generation", "prompt": "x", "candidates": parts}).encode()
    example = parse_row(line, tmp_path / "in")
    assert example_row(example, tmp_path / "out")["candidates"] == parts


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: No such file"):
        list(read_examples(tmp_path / "none.jsonl"))


TWO = (Preferred(1, 0, 0), Preferred(0, 0, 1))


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        (
            Scored(Score(3.0, Scale(1, 5), 0.5), {"style": Score(2, Scale(1, 5))}, "said"),
            {
                "status": "scored",
                "value": 3.0,
                "normalized": 0.5,
                "scale": [1, 5],
                "sigma": 0.5,
                "aspects": {"style": 2},
                "text": "said",
            },
        ),
        (Scored(None, {}, "said"), {"status": "scored", "text": "said"}),
        (
            Preferred(0.5, 0.25, 0.25, {"style": 0.75}, "said"),
            {
                "status": "preferred",
                "winner": "first",
                "p_first": 0.5,
                "p_tie": 0.25,
                "p_second": 0.25,
                "probability": 0.625,
                "aspects": {"style": 0.75},
                "text": "said",
            },
        ),
        (
            Ranking((1,), (None, 4.0), (Failed("lost"), Scored(None))),
            {"status": "ranked", "order": (1,), "scores": (None, 4.0), "reason": "lost"},
        ),
        (Unparsed("no number", "hm"), {"status": "unparsed", "reason": "no number", "text": "hm"}),
        (Failed("lost"), {"status": "failed", "reason": "lost"}),
    ],
)
def test_a_verdict_row_has_every_key_and_null_where_one_does_not_apply(verdict, result):
    made = verdict_row("a", verdict, judge="j", family="f")
    assert list(made) == CONTRACT
    empty = dict.fromkeys(CONTRACT) | {"id": "a", "judge": "j", "family": "f", "aspects": {}}
    assert made == empty | result
    assert json.loads(json.dumps(made, allow_nan=False)).keys() == made.keys()


def test_the_keys_are_those_of_the_contract():
    assert list(VERDICT_KEYS) == CONTRACT


def test_both_orders_stand_in_the_row():
    made = verdict_row("a", Preferred(0.5, 0, 0.5, orders=TWO), judge="j", family="f")
    assert [item["winner"] for item in made["orders"]] == ["first", "second"]
    assert made["consistent"] is False
    assert made["winner"] == "tie"


def done(name, status="scored"):
    return {"id": name, "status": status}


def test_a_journal_knows_what_is_done_when_it_is_opened_again(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    journal = Journal(path)
    assert journal.done == {}
    journal.append([done("a"), done("雪\u2028", "failed")])
    journal.append([done("c")])
    assert journal.done == {"a": "scored", "雪\u2028": "failed", "c": "scored"}
    assert Journal(path).done == journal.done


def test_a_journal_cut_anywhere_goes_on_without_a_lost_or_doubled_row(tmp_path):
    """Every length a kill can leave behind, the middle of a character included."""
    path = tmp_path / "out.jsonl"
    Journal(path).append([done("a"), done("雪")])
    whole = path.read_bytes()
    first = whole.index(b"\n")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        complete = ["a"] * (length >= first) + ["雪"] * (length >= len(whole) - 1)
        assert list(journal.done) == complete
        assert path.read_bytes() == whole[:length], "opening changes nothing"
        journal.append([done(name) for name in ("a", "雪") if name not in journal.done])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b"my notes",
        b"\x89PNG\r\n\x1a\n",
        b'{"id": "a", "prompt": "x"}\n',
        b'{"id": "a", "prompt": "x"}',
        b'{"threads": 4',
        b"[1, 2]\n",
        b"\n",
        b'{"id": "a", "status": "scored"}\nmy notes',
        b'broken\n{"id": "a", "status": "scored"}\n',
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"line \d has no id and status; give another"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_journal_that_cannot_be_written_is_an_error_with_its_path(tmp_path):
    with pytest.raises(DataError, match="cannot be written: Is a directory"):
        Journal(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written: "):
        Journal(tmp_path / "file" / "out.jsonl")


def test_aspects_without_a_score_lie_on_the_scale_beside_them():
    row = {"task": "image_generation", "prompt": "x", "candidates": [{"image": "a.png"}]}
    target = {"scale": [1, 4], "aspects": {"sharp": 4, "bright": 5}}
    read = parse_row(json.dumps(row | {"target": target}).encode(), FOLDER)
    assert read.error == "bright 5 is outside its scale 1 to 4"
    target["score"] = 2
    assert parse_row(json.dumps(row | {"target": target}).encode(), FOLDER).target.score == 2


def test_a_byte_order_mark_belongs_to_no_line(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(row(id="a"), row(id="b")))
    first, second = read_examples(path)
    assert (first.id, first.start, second.id) == ("a", 3, "b")
    whole = path.read_bytes()
    for item in (first, second):
        assert parse_row(whole[item.start :].splitlines()[0], tmp_path) == item.content


def test_a_parquet_file_is_refused_in_a_line_that_says_what_to_do(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"PAR1\x15\x04\n\n")
    wanted = "is a Parquet file; convert it first: unified-reward data convert .* OUT.jsonl"
    with pytest.raises(DataError, match=wanted):
        next(read_examples(path))


def test_null_is_as_good_as_a_missing_key():
    folder = Path("f")
    nameless = {"task": "image_generation", "prompt": "p"}
    given = json.dumps(nameless | {"id": None, "candidates": None, "source": None}).encode()
    found = parse_row(given, folder)
    assert (found.candidates, found.source, len(found.id)) == ((), "", 16)


def test_a_stand_in_is_the_id_of_no_row_whichever_comes_first(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines(b"broken", b"broken", b'"line 3"'))
    first, second, _ = (item.id for item in read_examples(path))
    path.write_bytes(lines(b"broken", row(id=first), row(id="line 1"), row(id="line 5"), b"broken"))
    read = list(read_examples(path))
    assert len({item.id for item in read}) == 5
    assert read[2].content.id == read[2].id == "line 1"
    assert "duplicate id" in read[1].content.error
    path.write_bytes(lines(row(id=second), b"broken"))
    good, broken = read_examples(path)
    assert good.id == second != broken.id


def test_a_row_that_failed_when_it_was_made_keeps_its_prompt(tmp_path):
    path = tmp_path / "in.jsonl"
    more = {"status": "failed", "reason": "no memory", "criteria": "c", "tags": {"k": "v"}}
    bare = {"id": "b", "status": "failed", "reason": "no prompt"}
    path.write_bytes(lines(row(candidates=[], **more), bare))
    known, unknown = read_examples(path)
    assert known.content.error == "line 1: no memory"
    assert (known.prompt.prompt, known.prompt.criteria, known.prompt.tags) == ("p", "c", {"k": "v"})
    assert unknown.prompt is None


def test_whole_numbers_are_ids_sources_and_tags_by_their_text(tmp_path):
    path = tmp_path / "in.jsonl"
    more = {"source": 3, "tags": {"group": 2, "share": 0.5}}
    path.write_bytes(lines(row(id=7, **more), row(id="7"), row(id=2**70), row(id=-1), row(id=0)))
    seven, again, *others = read_examples(path)
    assert (seven.id, seven.content.id, seven.content.source) == ("7", "7", "3")
    assert seven.content.tags == {"group": "2", "share": "0.5"}
    assert again.content.error == "line 2: duplicate id '7' (first on line 1)"
    assert [item.id for item in others] == [str(2**70), "-1", "0"]


TWO_IMAGES = [{"image": "a.png"}, {"image": "b.png"}]
KEPT = {"status": "kept", "chosen": TWO_IMAGES[0], "rejected": TWO_IMAGES[1]}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"target": {"winner": "first"}}, "winner 'first' of two, and the row 1"),
        (
            {"candidates": TWO_IMAGES, "target": {"score": 3, "winner": "first"}},
            "score 3 of one candidate, and the row has 2",
        ),
        (
            {"candidates": [*TWO_IMAGES, {"image": "c.png"}], "target": {"winner": "tie"}},
            "winner 'tie' of two, and the row 3",
        ),
        (
            {"candidates": TWO_IMAGES[:1] * 2, "target": {"winner": "second"}},
            "winner 'second', and both are the same",
        ),
        ({**KEPT, "rejected": TWO_IMAGES[0]}, "chosen and rejected are the same candidate"),
        ({**KEPT, "chosen_score": 1, "rejected_score": 2}, "chosen_score 1 is below .* 2"),
        (
            {**KEPT, "candidates": TWO_IMAGES, "target": {"winner": "second"}},
            "winner 'second', and chosen is 0",
        ),
        (
            {**KEPT, "candidates": [TWO_IMAGES[0] | {"side": "rejected"}]},
            "candidate 0 is chosen, and its side is 'rejected'",
        ),
        (
            {**KEPT, "chosen_score": 3, "candidates": [TWO_IMAGES[0] | {"score": 1}]},
            "chosen_score is 3, and that candidate's 1",
        ),
        (
            {**KEPT, "comparisons": [{"a": 0, "b": 1, "winner": "first", "probability": 0.2}]},
            "comparisons.0: .*winner 'first' and probability 0.2 contradict each other",
        ),
        (
            {**KEPT, "comparisons": [{"a": 0, "b": 1, "winner": "tie", "probability": 0.9}]},
            "winner 'tie' and probability 0.9 contradict",
        ),
    ],
)
def test_a_row_that_contradicts_itself_is_refused_with_both_values(keys, reason):
    read = parse_row(json.dumps(row(**keys)).encode(), FOLDER)
    assert isinstance(read, Failed)
    assert re.search(reason, read.error)


def test_a_tie_of_two_equal_candidates_is_no_contradiction():
    keys = {"candidates": TWO_IMAGES[:1] * 2, "target": {"winner": "tie"}}
    assert parse_row(json.dumps(row(**keys)).encode(), FOLDER).target.winner == "tie"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"winner": "second"}, "winner 'second' and probability 0.75 contradict p_first 0.75"),
        ({"probability": 0.25}, "winner 'first' and probability 0.25 contradict p_first 0.75"),
        ({"p_second": 0.2}, "sum to 1"),
    ],
)
def test_a_verdict_row_that_contradicts_itself_is_refused(changed, reason):
    made = verdict_row("a", Preferred(0.75, 0.0, 0.25), judge="j", family="f")
    assert read_verdict(made) == Preferred(0.75, 0.0, 0.25)
    with pytest.raises(DataError, match=reason):
        read_verdict(made | changed)


def test_an_id_that_stands_twice_in_a_file_of_verdicts_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(lines(done("a"), b"", done("b"), done("a")))
    with pytest.raises(DataError, match="line 4: id 'a' stands on line 1 already"):
        list(read_verdict_rows(path))
