"""score, compare and rank on the command line: rows, order, exit codes, messages for people."""

import json
import subprocess
import sys

import pytest

from tests.fake_server import FakeServer, chat
from tests.unified_reward.io.test_rows import CONTRACT


def rows(out):
    """One JSON row a line, and nothing else."""
    return [json.loads(line) for line in out.splitlines()]


def test_score_gives_a_row_a_file_in_the_order_and_by_the_name_given(cli, files):
    names = ["b.png", "./a.png", f"../{files.name}/c.png"]
    code, out, _ = cli("score", *names, "--prompt", "p", "--judge", "scripted:tie", "--json")
    assert code == 0
    assert [row["id"] for row in rows(out)] == names
    for row in rows(out):
        assert list(row) == CONTRACT
        assert (row["status"], row["value"], row["normalized"]) == ("scored", 3.0, 0.5)
        assert (row["scale"], row["judge"], row["family"]) == ([1, 5], "scripted:tie", "native")


@pytest.mark.usefixtures("files")
def test_the_shipped_judge_scores_without_being_named(cli):
    code, out, _ = cli("score", "a.png", "--prompt", "a red cube", "--json")
    (row,) = rows(out)
    assert code == 0
    assert (row["judge"], row["status"]) == ("tiny_judge", "scored")
    assert 1 <= row["value"] <= 5


@pytest.mark.usefixtures("files")
def test_clips_are_told_from_pictures_by_content_and_scored_on_their_scale(cli, files):
    (files / "a.mp4").rename(files / "clip.png")
    _, out, _ = cli("score", "clip.png", "--prompt", "p", "--judge", "scripted:tie", "--json")
    assert rows(out)[0]["scale"] == [1, 10]


@pytest.mark.usefixtures("files")
def test_answers_about_a_picture_are_scored_by_their_own_words(cli):
    asked = ("--image", "a.png", "--prompt", "?", "--answer", "yes [b]", "--answer", "{no}")
    code, out, _ = cli("score", *asked, "--judge", "scripted:tie", "--json")
    assert code == 0
    assert [row["id"] for row in rows(out)] == ["yes [b]", "{no}"]
    assert {tuple(row["scale"]) for row in rows(out)} == {(0, 100)}


@pytest.mark.usefixtures("files")
def test_compare_asks_in_both_orders_unless_told_otherwise(cli):
    asked = ("compare", "a.png", "b.png", "--prompt", "p", "--judge", "scripted:first", "--json")
    code, out, _ = cli(*asked)
    (row,) = rows(out)
    assert code == 0
    assert list(row) == CONTRACT
    assert (row["status"], row["winner"], row["consistent"]) == ("preferred", "tie", False)
    assert [one["winner"] for one in row["orders"]] == ["first", "second"]
    (row,) = rows(cli(*asked, "--orders", "1")[1])
    assert (row["winner"], row["consistent"], row["orders"]) == ("first", None, None)
    assert row["id"] == "a.png | b.png"


def test_rank_gives_places_in_the_order_given(cli, files):
    table = files / "t.csv"
    table.write_text("id,value\na.png,1\nb.png,3\nc.png,2\n")
    asked = ("rank", "a.png", "b.png", "c.png", "--prompt", "p", "--judge", f"table:{table}")
    code, out, _ = cli(*asked, "--json")
    (row,) = rows(out)
    assert code == 0
    assert list(row) == CONTRACT
    assert (row["status"], row["order"], row["scores"]) == ("ranked", [1, 2, 0], [1, 3, 2])
    code, out, _ = cli(*asked)
    assert (code, "2 > 3 > 1" in out) == (0, True)


@pytest.mark.usefixtures("files")
def test_a_file_that_cannot_be_read_makes_exit_1_and_the_others_are_answered(cli):
    asked = ("score", "a.png", "none.png", "b.png", "--prompt", "p", "--judge", "scripted:tie")
    code, out, err = cli(*asked, "--json")
    assert code == 1
    assert [row["status"] for row in rows(out)] == ["scored", "failed", "scored"]
    assert "none.png: cannot be opened: No such file" in rows(out)[1]["reason"]
    assert list(rows(out)[1]) == CONTRACT
    code, out, err = cli(*asked)
    assert (code, err) == (1, "")
    assert "failed: none.png: cannot be opened" in out


@pytest.mark.usefixtures("files")
def test_silence_is_unparsed_and_makes_exit_1(cli):
    for command in ("score", "rank", "compare"):
        asked = (command, "a.png", "b.png", "--prompt", "p", "--judge", "scripted:silent")
        code, out, _ = cli(*asked, "--json")
        assert code == 1
        for row in rows(out):
            assert row["value"] is row["winner"] is None
            assert row["reason"]
            assert row["order"] in (None, [])


USAGE = [
    (["score", "--prompt", "p"], "give files to judge, or --answer about one --image"),
    (["score", "a.png", "--answer", "x", "--image", "b.png", "--prompt", "p"], "not both"),
    (["score", "a.png", "--image", "b.png", "--prompt", "p"], "not both"),
    (["score", "--answer", "x", "--prompt", "p"], "give files to judge, or --answer"),
    (["score", "--image", "a.png", "--prompt", "p"], "give files to judge, or --answer"),
    (
        ["score", "--image", "a.png", "--video", "a.mp4", "--answer", "x", "--prompt", "p"],
        "one --image or --video",
    ),
    (["score", "a.png", "a.mp4", "--prompt", "p"], "pictures and clips cannot be judged against"),
    (["score", "a.png"], "Missing option '--prompt'"),
    (["score", "a.png", "--prompt", "p", "--colour", "x"], "No such option: --colour"),
    (["score", "a.png", "--prompt", "p", "--orders", "2"], "No such option: --orders"),
    (
        ["compare", "a.png", "b.png", "--prompt", "p", "--orders", "3"],
        "Invalid value for '--orders'",
    ),
    (["compare", "a.png", "--prompt", "p"], "compare takes two candidates, not 1"),
    (["compare", "a.png", "b.png", "c.png", "--prompt", "p"], "not 3; rank takes more"),
    (["rank", "a.png", "b.png", "--prompt", "p", "--by", "luck"], "'luck' is not one of"),
    (["score", "a.png", "--prompt", "p", "--judge", "nonsense"], "there is no folder nonsense"),
    (["score", "a.png", "--prompt", "p", "--judge", "scripted:x"], "no scripted model 'x'"),
    (["score", "a.png", "--prompt", "p", "--judge", "scripted:perfect"], "here are none"),
    (["score", "a.png", "--prompt", "p", "--judge", "table:t.csv"], "t.csv cannot be read"),
    (["score", "a.png", "--prompt", "p", "--family", "best"], "no family 'best'; there are"),
    (
        ["score", "a.png", "--prompt", "p", "--judge", "CodeGoat24/UnifiedReward-qwen-7b"],
        "was trained on official wordings",
    ),
    (["score", "a.png", "--prompt", "p", "--judge", "[/b]x"], "there is no folder [/b]x, and"),
    (["judge", "none.jsonl", "out.jsonl"], "none.jsonl cannot be read"),
    (["judge", "a.png"], "Missing argument 'OUT.jsonl'"),
    (["jugde"], "No such command 'jugde'"),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("args", "told"), USAGE)
def test_wrong_usage_is_exit_2_and_a_message_for_people(cli, args, told):
    code, out, err = cli(*args)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_brackets_in_names_and_answers_are_shown_and_are_no_markup(cli, files):
    (files / "a.png").rename(files / "x[red].png")
    asked = ("score", "x[red].png", "no[/b].png", "--prompt", "p", "--judge", "scripted:tie")
    code, out, _ = cli(*asked)
    assert code == 1
    assert "x[red].png" in out
    assert "no[/b].png: cannot be opened" in out


WATCHED = """
import sys
from unified_reward._cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers"} & set(sys.modules)
    sys.stderr.write(f"heavy: {sorted(heavy)}")
"""


def watched(*args):
    """The command line in a process of its own, which tells what heavy it imported."""
    command = [sys.executable, "-c", WATCHED, *args]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_a_judge_behind_a_url_is_asked_without_importing_torch(files):
    with FakeServer(lambda _: chat("Final Score: 4")) as server:
        done = watched(
            *("score", str(files / "a.png"), "--prompt", "p", "--judge", server.url, "--json")
        )
    assert done.returncode == 0, done.stderr
    (row,) = rows(done.stdout)
    assert (row["value"], row["status"]) == (4, "scored")
    assert done.stderr.endswith("heavy: []")


def test_help_imports_no_torch():
    done = watched("--help")
    assert done.returncode == 0
    assert "compare" in done.stdout
    assert done.stderr.endswith("heavy: []")


@pytest.mark.usefixtures("files")
def test_edits_are_judged_with_the_picture_before(cli):
    asked = ("--prompt", "make it red", "--source", "a.png", "--json")
    _, out, _ = cli("compare", "b.png", "c.png", *asked, "--judge", "scripted:second")
    assert rows(out)[0]["winner"] == "tie", "said in both orders, so it is no preference"
    _, out, _ = cli("score", "b.png", *asked, "--judge", "scripted:tie")
    assert rows(out)[0]["scale"] == [0, 25]
    code, out, _ = cli("rank", "b.png", "c.png", *asked, "--judge", "scripted:tie")
    assert (code, rows(out)[0]["status"]) == (0, "ranked")


@pytest.mark.usefixtures("files")
def test_a_source_goes_with_pictures_alone(cli):
    asked = ("score", "--prompt", "x", "--image", "a.png", "--answer", "b", "--source", "c.png")
    code, _, told = cli(*asked)
    assert code == 2
    assert "goes with pictures" in told
