"""Every command reads every kind of row, and what one writes another can use."""

import json

import pytest

from unified_reward.core.samples import Task
from unified_reward.data.example_file import ExampleFile
from unified_reward.judges.card import Card
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.train.judge import JudgeTurns


CRITERIA = "Count the legs."
IMAGES = [{"image": "a.png"}, {"image": "b.png"}, {"image": "c.png"}]
PROMPT = {"task": "image_generation", "prompt": "a fox", "criteria": CRITERIA}
ROWS = {
    "sample": {"id": "1", **PROMPT, "candidates": IMAGES[:1]},
    "record": {
        "id": "1",
        **PROMPT,
        "candidates": IMAGES[:1],
        "target": {"score": 4, "scale": [1, 5]},
        "raters": 3,
        "source": "people",
        "tags": {"group": "foxes"},
        "schema": 1,
    },
    "vote": {"id": "1", **PROMPT, "candidates": IMAGES[:2], "target": {"winner": "second"}},
    "prompt": {"id": "1", **PROMPT, "candidates": [], "context": []},
    "candidates": {
        "id": "1",
        "status": "generated",
        "reason": None,
        **PROMPT,
        "candidates": IMAGES,
        "context": [],
        "tags": {},
        "policy": "tiny",
        "seed": 0,
        "duplicates": 0,
    },
    "pair": {
        "id": "1",
        "status": "kept",
        "reason": None,
        **PROMPT,
        "context": [],
        "chosen": IMAGES[1],
        "rejected": IMAGES[0],
        "chosen_score": 4.0,
        "rejected_score": 2.0,
        "tags": {},
        "candidates": [
            IMAGES[0] | {"score": 2.0, "side": "rejected", "reason": None},
            IMAGES[1] | {"score": 4.0, "side": "chosen", "reason": None},
            IMAGES[2] | {"score": None, "side": None, "reason": "unreadable"},
        ],
        "comparisons": [{"a": 0, "b": 1, "winner": "second", "probability": 0.1, "orders": None}],
        "judge_calls": 2,
        "judge": "tiny",
        "family": "compact",
        "strategy": "rank",
        "seed": 0,
    },
}
KINDS = [*ROWS]


@pytest.fixture
def source(files):
    def write(*kinds, **changes):
        path = files / "in.jsonl"
        rows = [ROWS[kind] | {"id": str(i)} | changes for i, kind in enumerate(kinds, 1)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_any_kind_is_checked_and_an_unknown_key_is_refused(cli, source, kind):
    assert cli("data", "check", source(kind))[0] == 0
    code, printed, _ = cli("data", "check", source(kind, promt="typo"))
    assert code == 1
    assert "promt: Extra inputs are not permitted" in printed


def test_metadata_of_a_folder_is_no_row_and_says_what_to_do(cli, files):
    path = files / "metadata.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "text": "a star"}) + "\n", "utf-8")
    code, _, err = cli("judge", path, files / "out.jsonl", "--judge", "scripted:first")
    assert code == 1
    assert "failed: line 1: row: this is metadata of a folder (file_name); give the folder" in err
    assert "line 1: line 1" not in err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tar"])
def test_a_row_of_any_kind_is_converted_and_keeps_what_it_says(cli, source, files, kind, suffix):
    given, out, back = source(kind), files / f"out{suffix}", files / "back.jsonl"
    assert cli("data", "convert", given, out)[0] == 0
    assert cli("data", "convert", out, back)[0] == 0
    (row,) = read(back)
    before = ROWS[kind]
    assert row["criteria"] == CRITERIA
    assert len(row["candidates"]) == len(before["candidates"])
    for key in ("tags", "raters", "chosen_score", "rejected_score"):
        assert row.get(key) == before.get(key, {} if key == "tags" else None)
    assert ("chosen" in row) == (kind == "pair")
    assert cli("data", "check", back)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_any_kind_is_counted_and_shown(cli, source, files, kind):
    given = source(kind)
    assert cli("data", "stats", given, "--out", files / "stats.html")[0] == 0
    assert cli("show", given)[0] == 0
    for page in ("stats.html", "in.html"):
        assert "a fox" in (files / page).read_text("utf-8")


def test_rows_with_a_label_are_mixed_and_a_made_pair_becomes_a_comparison(cli, source, files):
    given = source(*KINDS)
    (files / "mix.yaml").write_text(
        f"sources: [{{path: {given}}}]\nsplits: {{train: 1.0}}\ndedup: false\n"
    )
    assert cli("data", "mix", files / "mix.yaml", files / "mixed")[0] == 1
    rows = {row["id"]: row for row in read(files / "mixed" / "train.jsonl")}
    labelled = ("record", "vote", "pair")
    assert sorted(rows) == [str(KINDS.index(kind) + 1) for kind in labelled]
    pair = rows[str(KINDS.index("pair") + 1)]
    winner = pair["candidates"][pair["target"]["winner"] == "second"]
    assert winner["image"].endswith("b.png")
    assert len(pair["candidates"]) == 2


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("sample", "scored", 0),
        ("record", "scored", 0),
        ("vote", "preferred", 0),
        ("prompt", "failed", 1),
        ("candidates", "ranked", 0),
        ("pair", "preferred", 0),
    ],
)
def test_a_row_of_any_kind_is_judged(cli, source, files, kind, status, code):
    out = files / "out.jsonl"
    given = ("judge", source(kind), out, "--judge", "scripted:random")
    assert cli(*given)[0] == code
    (row,) = read(out)
    assert (row["id"], row["status"]) == ("1", status)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_made_of_a_row_of_any_kind_and_keep_its_criteria(cli, source, files, kind):
    out = files / "out.jsonl"
    code = cli("pairs", source(kind), out, "--judge", "scripted:first", "--strategy", "random")[0]
    (row,) = read(out)
    assert (row["id"], row["criteria"]) == ("1", CRITERIA)
    enough = len(ROWS[kind]["candidates"]) > 1
    assert (code, row["status"]) == ((0, "kept") if enough else (1, "failed"))


@pytest.mark.parametrize(
    ("kind", "count"), [("vote", "1 written"), ("pair", "1 written"), ("sample", "1 dropped")]
)
def test_votes_and_pairs_are_exported_and_rows_without_a_preference_are_counted(
    cli, source, files, kind, count
):
    given = source(kind) if kind != "sample" else source(kind, "vote")
    code, _, err = cli("export", given, files / "out.json", "--format", "published")
    assert code == 0
    assert count in err
    row = json.loads((files / "out.json").read_text())[0]
    assert row["jpg_0"].endswith("b.png")


@pytest.mark.parametrize("kind", ["vote", "pair"])
def test_what_a_person_or_a_judge_prefers_is_learned_by_a_policy(source, files, kind):
    (pair,), counts = trainable_pairs(source(kind), [Task.IMAGE_GENERATION], print)
    assert counts == {"kept": 1}
    assert (pair.chosen.source.name, pair.rejected.source.name) == ("b.png", "a.png")
    assert pair.criteria == CRITERIA


def turns(path, family="native"):
    records = ExampleFile(path, seed=0)
    taught = JudgeTurns(records, Card(family))
    return records, [taught[i] for i in range(len(records))]


def test_a_made_pair_teaches_a_judge_in_both_orders_and_with_its_criteria(source, files):
    path = source(*["pair"] * 40)
    with path.open("a") as file:
        file.write(json.dumps(ROWS["pair"] | {"id": "no", "status": "dropped"}) + "\n")
        file.write(json.dumps({"id": "lost", "status": "failed", "reason": "no file"}) + "\n")
    records, taught = turns(path)
    assert len(records) == 40
    winners = [records[i].target.winner for i in range(40)]
    assert 10 < winners.count("first") < 30
    for i, turn in enumerate(taught):
        chosen = records[i].candidates[winners[i] == "second"]
        assert chosen.source.name == "b.png"
        assert any(CRITERIA in part for part in turn.request.parts if isinstance(part, str))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_dropped_row_stays_dropped_when_it_is_converted(cli, source, files, suffix):
    given = source("pair", "pair")
    rows = read(given)
    rows[1] |= {"status": "dropped", "reason": "a tie", "chosen": None, "rejected": None}
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, back = files / f"out{suffix}", files / "back.jsonl"
    assert cli("data", "convert", given, out)[0] == 0
    assert cli("data", "convert", out, back)[0] == 0
    assert [row["status"] for row in read(back)] == ["kept", "dropped"]
    assert len(ExampleFile(back, seed=0)) == 1


def test_candidates_that_nobody_judged_teach_nobody(source):
    with pytest.raises(Exception, match=r"line 1: 3 candidates without a pair"):
        ExampleFile(source("candidates"), seed=0)


@pytest.mark.parametrize("vote", ["tievote", "bothbad_vote", "leftvote"])
def test_the_kind_of_a_vote_is_never_taught(cli, files, vote):
    row = {"id": "1", "prompt": "a fox", "left_image": "a.png", "right_image": "b.png"}
    (files / "votes.jsonl").write_text(json.dumps(row | {"vote_type": vote}) + "\n")
    out = files / "records.jsonl"
    given = ("data", "convert", files / "votes.jsonl", out, "--source", "genai_bench_image")
    assert cli(*given)[0] == 0
    assert read(out)[0]["tags"] == {"vote": vote}
    for family in ("think", "reasoned", "native"):
        _, (turn,) = turns(out, family)
        assert "vote" not in turn.answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vote", "pair"])
def test_a_policy_is_aligned_on_votes_and_on_pairs(cli, source, files, kind):
    quick = ("optim={steps: 1, batch_size: 1, lr: 1e-4, lora_rank: 2}", "resolution.height=32")
    code, printed, err = cli(
        "dpo", source(kind), "--policy", "tiny_image", "--out", files / "run", "--json", *quick
    )
    assert code == 0, err
    assert json.loads(printed)["pairs"] == 1
