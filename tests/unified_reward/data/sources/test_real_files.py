"""Known answers of published files; skipped where they are absent."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.unified_reward.data.sources.reading import reasons
from unified_reward.core.samples import Example
from unified_reward.data.sources import read_source
from unified_reward.io.rows import example_row, parse_row


def whole(path, name):
    """The records of a file in which every row can be used."""
    rows = list(read_source(path, name))
    assert reasons(rows) == []
    return [row.content for row in rows]


def winners(records):
    return Counter(item.target.winner for item in records)


def test_imagereward_has_6399_strict_pairs_of_466_prompts(shared):
    records = whole(shared / "imagereward/data/test.json", "imagereward")
    assert len({item.id.rpartition(":")[0] for item in records}) == 466
    assert winners(records) == {"first": 3777, "second": 2622, "tie": 831}
    assert 3777 + 2622 == 6399


def test_genai_bench_keeps_its_four_votes(shared):
    records = whole(shared / "unifiedreward/GenAI-Bench-Video_data.json", "genai_bench_video")
    assert Counter((item.target.winner, item.tags["vote"]) for item in records) == {
        ("first", "leftvote"): 619,
        ("second", "rightvote"): 651,
        ("tie", "tievote"): 215,
        ("tie", "bothbad_vote"): 404,
    }


def test_vl_rewardbench_keeps_all_rows_though_25_ids_stand_twice(shared):
    records = whole(shared / "unifiedreward/VL-RewardBench_data.json", "vl_rewardbench")
    assert winners(records) == {"first": 1245, "second": 5}
    assert sum(item.id.endswith(":2") for item in records) == 25


def test_pickscore_agrees_with_pickapic_as_often_as_published(shared):
    path = shared / "mjbench_quality/pickapic_val500_pickscore.json"
    records = whole(path, "pickapic_val500")
    assert winners(records) == {"first": 238, "second": 187, "tie": 75}
    result = {"0": "first", "1": "second"}
    pairs = zip(records, json.loads(path.read_text()), strict=True)
    hits = [item.target.winner == result.get(row["pred_pick"]) for item, row in pairs]
    assert sum(hits) / 425 == pytest.approx(0.7506, abs=5e-5)


def test_repeated_pairs_of_videoalign_are_row_errors(shared):
    rows = list(read_source(shared / "videoalign/example.csv", "videoalign"))
    records = [row.content for row in rows if isinstance(row.content, Example)]
    assert len(records) == 3
    assert len(reasons(rows)) == 9
    assert winners(records) == {None: 3}
    assert all(Path(video.source).is_file() for item in records for video in item.media)


def test_fetv_ratings_give_the_strict_alignment_pairs(shared):
    records = whole(shared / "fetv/human_ratings_all.jsonl", "fetv")
    assert len(records) == 3017
    aligned = {item.id: item.target.aspects["alignment"] for item in records}
    found = Counter()
    for line in (shared / "fetv/pairs_35x6.jsonl").read_text().splitlines():
        pair = json.loads(line)
        a, b = (aligned[f"{pair['id']}:{pair[side]}"] for side in ("model_a", "model_b"))
        assert pair["alignment"] == ("a" if a > b else "b" if b > a else "tie")
        found[a != b] += 1
    assert found == {True: 162, False: 48}


def test_mjbench_always_prefers_the_first(shared):
    path = shared / "mjbench_quality/human/captions_human.json"
    records = whole(path, "mjbench_quality")
    assert winners(records) == {"first": 8}
    assert all(Path(image.source).is_file() for item in records for image in item.media)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("imagereward", "imagereward/data/test.json"),
        ("videoalign", "videoalign/example.csv"),
        ("fetv", "fetv/human_ratings_all.jsonl"),
        ("vl_rewardbench", "unifiedreward/VL-RewardBench_data.json"),
    ],
)
def test_records_stay_the_same_as_rows_of_our_own(shared, name, path):
    rows = [row.content for row in read_source(shared / path, name)]
    records = [item for item in rows if isinstance(item, Example)][:40]
    for record in records:
        row = json.dumps(example_row(record, shared)).encode()
        assert parse_row(row, shared) == record
